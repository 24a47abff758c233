"""How well texts match the texts they should be; both sides are normalised first (case, spaces)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bridgeflow_plugins.text.vocabulary import normalise, tokenise


def exact_match(results: Sequence[str], truths: Sequence[str | Sequence[str]]) -> float:
    """Share of results, in [0, 1], that equal their truth, or one of several, but for case and spaces; 0 where there
    are none."""
    pairs = list(zip(results, truths, strict=True))
    if not pairs:
        return 0.0
    return sum(normalise(result) in map(normalise, _each(truth)) for result, truth in pairs) / len(pairs)


def token_f1(results: Sequence[str], truths: Sequence[str | Sequence[str]]) -> float:
    """Mean over the pairs of the F1 score of word tokens, in [0, 1], order aside; 0 where there are no pairs. Of
    several truths the one that scores best counts.

    Tokens are counted with multiplicity, as in SQuAD (Rajpurkar et al. 2016, section 6.1), with articles and
    punctuation kept. Two empty texts score 1, an empty one against words 0.
    """
    scores = [
        max(_f1(tokenise(result), tokenise(own)) for own in _each(truth))
        for result, truth in zip(results, truths, strict=True)
    ]
    return sum(scores) / len(scores) if scores else 0.0


def _each(truth: str | Sequence[str]) -> Sequence[str]:
    return [truth] if isinstance(truth, str) else truth


def _f1(result: list[str], truth: list[str]) -> float:
    if not result and not truth:
        return 1.0
    shared = (Counter(result) & Counter(truth)).total()
    return 2 * shared / (len(result) + len(truth))
