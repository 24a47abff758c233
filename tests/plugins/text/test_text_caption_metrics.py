"""BLEU, ROUGE-L, CIDEr-D and METEOR of captions with several references, against their formulas."""

from __future__ import annotations

import math
import shutil
from collections import Counter

import pytest

from bridgeflow_plugins.text.captioning import CaptionScorer

RESULTS = [
    "a man riding a wave on a surfboard",
    "a dog a dog a dog on the grass",
    "two cats sleeping on a red couch next to a window",
    "a red bus driving down a street",
    "a plate of food",
]
REFERENCES = [
    ["a man riding a large wave on a surfboard", "a surfer on a wave", "a man is riding a wave in the ocean"],
    # The last two are as far from the result in length: the shorter counts.
    ["a dog on the grass", "a brown dog lying on the green grass", "a dog runs fast and far over the wet grass"],
    ["two cats are asleep on a red couch", "cats sleeping on a couch next to a window"],
    ["a red double decker bus driving down a city street"],
    ["a plate of rice and beans", "food on a plate", "a white plate of food on a table", "dinner"],
]


@pytest.fixture(params=["java", "plain"])
def scorer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CaptionScorer:
    """Words by the PTB tokenizer, and by plain cutting."""
    if request.param == "plain":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif shutil.which("java") is None:
        pytest.skip("Java is not installed, which the PTB tokenizer and METEOR need")
    found = CaptionScorer([f"{own.capitalize()}." for own in RESULTS], REFERENCES)
    assert found.standard == (request.param == "java")
    # What is compared below is the figures alone: the words are the same both ways.
    assert (found.results, found.references) == (RESULTS, REFERENCES)
    return found


def ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(n: int, rows: list[int]) -> float:
    """Papineni et al. 2002, over a corpus: section 2.1.1 for the counts, 2.3 for the rest."""
    logs, length, nearest = 0.0, 0, 0
    for k in range(1, n + 1):
        clipped, total = 0, 0
        for i in rows:
            own = ngrams(RESULTS[i], k)
            most = {gram: max(ngrams(text, k)[gram] for text in REFERENCES[i]) for gram in own}
            clipped += sum(min(count, most[gram]) for gram, count in own.items())
            total += own.total()
        logs += math.log(clipped / total) / n
    for i in rows:
        words = len(RESULTS[i].split())
        length += words
        nearest += min((len(text.split()) for text in REFERENCES[i]), key=lambda other: (abs(other - words), other))
    return math.exp(min(0.0, 1 - nearest / length) + logs)


def rouge_l(rows: list[int]) -> float:
    """As COCO counts it: the best precision and the best recall of all references, at beta 1.2 (Lin 2004)."""

    def longest(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return 0
        if a[-1] == b[-1]:
            return longest(a[:-1], b[:-1]) + 1
        return max(longest(a[:-1], b), longest(a, b[:-1]))

    total = 0.0
    for i in rows:
        own = RESULTS[i].split()
        shared = [(longest(own, text.split()), len(text.split())) for text in REFERENCES[i]]
        precision = max(common / len(own) for common, _ in shared)
        recall = max(common / words for common, words in shared)
        total += (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    return total / len(rows)


def cider_d(rows: list[int]) -> float:
    """Equation 5 and section 7 of Vedantam et al. (arXiv 1411.5726): clipped, sigma 6, times 10."""

    def weights(text: str, n: int) -> dict[tuple[str, ...], float]:
        return {gram: count * math.log(len(rows) / max(1, held[gram])) for gram, count in ngrams(text, n).items()}

    def norm(vector: dict[tuple[str, ...], float]) -> float:
        return math.sqrt(sum(value**2 for value in vector.values()))

    total = 0.0
    for n in range(1, 5):
        held = Counter(gram for i in rows for gram in set().union(*(ngrams(text, n) for text in REFERENCES[i])))
        for i in rows:
            own = weights(RESULTS[i], n)
            for text in REFERENCES[i]:
                other = weights(text, n)
                longer = len(RESULTS[i].split()) - len(text.split())
                product = sum(min(value, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, value in own.items())
                both = norm(own) * norm(other)
                cosine = product / both if both else 0.0
                total += 10 / 4 * cosine * math.exp(-(longer**2) / (2 * 6**2)) / len(REFERENCES[i])
    return total / len(rows)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [1, 2, 4]])
def test_figures_are_those_of_their_formulas(scorer: CaptionScorer, rows: list[int]) -> None:
    expected = {f"bleu{n}": bleu(n, rows) for n in range(1, 5)}
    expected |= {"rouge_l": rouge_l(rows), "cider": cider_d(rows)}
    assert len({round(value, 6) for value in expected.values()}) == 6
    end = "" if scorer.standard else "_plain"
    assert scorer.figures(rows) == pytest.approx({f"{name}{end}": value for name, value in expected.items()}, rel=1e-6)


@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed, which METEOR needs")
def test_meteor_is_that_of_pycocoevalcap() -> None:
    from pycocoevalcap.meteor.meteor import Meteor as Published

    published = Published()
    # Both are asked twice, so that anything kept of one corpus would show in the next.
    for rows in ([3, 4], [0, 1, 2, 3, 4]):
        texts = {number: REFERENCES[i] for number, i in enumerate(rows)}
        expected, each = published.compute_score(texts, {number: [RESULTS[i]] for number, i in enumerate(rows)})
        assert 0.1 < min(each) < expected < max(each) < 1
        own = CaptionScorer([RESULTS[i] for i in rows], [REFERENCES[i] for i in rows])
        assert own.once() == {"meteor": pytest.approx(expected, abs=1e-9)}
        assert own.notes == []


def test_without_java_there_is_no_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = CaptionScorer(RESULTS, REFERENCES)
    assert found.once() == {}
    assert len(found.notes) == 1
    assert "METEOR is left out" in found.notes[0]
