"""The captions of the blocks world: one canonical sentence for each scene, and the way back."""

from __future__ import annotations

import re
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
