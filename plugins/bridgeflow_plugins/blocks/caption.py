"""The captions of the blocks world: one canonical sentence for each scene, and the way back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES

RELATIONS = ("left of", "in front of", "behind")


class Mention(NamedTuple):
    """A solid as a caption names it."""

    size: str
    colour: str
    shape: str
    relation: str | None
    """How the subject stands to this solid, one of RELATIONS; None for the subject itself."""


_NOUN = rf"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_RELATION = rf"({'|'.join(RELATIONS)})"
_SENTENCE = re.compile(rf"{_NOUN}(?: {_RELATION} {_NOUN}(?: and {_RELATION} {_NOUN})?)?")


def write_caption(mentions: Sequence[Mention]) -> str:
    """The sentence that names one to three solids, the subject first."""
    nouns = [f"a {m.size} {m.colour} {m.shape}" for m in mentions]
    clauses = [f"{m.relation} {noun}" for m, noun in zip(mentions[1:], nouns[1:], strict=True)]
    return " ".join([nouns[0], " and ".join(clauses)]).strip()


def parse_caption(text: str) -> list[Mention] | None:
    """What a caption names, the subject first; None where the text is no caption of this world.

    Upper case and spare white space are forgiven, anything else is not.
    """
    found = _SENTENCE.fullmatch(" ".join(text.lower().split()))
    if found is None:
        return None
    groups = found.groups()
    mentions = [Mention(groups[0], groups[1], groups[2], None)]
    for relation, size, colour, shape in (groups[3:7], groups[7:11]):
        if relation is not None:
            mentions.append(Mention(size, colour, shape, relation))
    return mentions


def blocks_scores(results: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """How much of what captions of this world name is right, each a share in [0, 1]; nothing where a truth is no such
    caption.

    exact_match_1, _2, _3: right to the word, of the captions with as many solids. Shares of nothing are left out.
    count: the right number of solids. size, colour, shape, relation: of the solids named, in their order; those that a
    result lacks are wrong, and a result that is no caption of this world has nothing right. object_accuracy: the share
    of the solids named for which the result names one of that colour and shape, each counted once, wherever it stands.
    """
    named = [parse_caption(truth) for truth in truths]
    if not truths or any(own is None for own in named):
        return {}
    exact: dict[int, list[bool]] = {1: [], 2: [], 3: []}
    right: dict[str, list[float]] = {"count": [], "size": [], "colour": [], "shape": [], "relation": []}
    objects: list[float] = []
    for result, truth in zip(results, named, strict=True):
        assert truth is not None
        found = parse_caption(result) or []
        exact[len(truth)].append(found == truth)
        right["count"].append(float(len(found) == len(truth)))
        kinds, given_kinds = (Counter((own.colour, own.shape) for own in each) for each in (truth, found))
        objects.append((kinds & given_kinds).total() / len(truth))
        for name in ("size", "colour", "shape", "relation"):
            wanted = truth[1:] if name == "relation" else truth
            given = found[1:] if name == "relation" else found
            hits = [getattr(a, name) == getattr(b, name) for a, b in zip(wanted, given, strict=False)]
            right[name] += [sum(hits) / len(wanted)] if wanted else []
    columns = {f"exact_match_{count}": [float(own) for own in values] for count, values in exact.items()} | right
    columns["object_accuracy"] = objects
    return {name: sum(values) / len(values) for name, values in columns.items() if values}
