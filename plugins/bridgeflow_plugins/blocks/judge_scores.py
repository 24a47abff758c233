"""How well pictures show what captions of the blocks world name, as the judge sees it.

After GenEval (Ghosh et al., arXiv 2310.11513), which asks a detector the same of photographs. Every score of a picture
is 0 or 1 but `object_accuracy`, and the scores of many are means over those whose captions the score is defined for:

- object_accuracy: the share of the solids named for which one of that colour and shape is seen, each seen solid counted
  once.
- all_correct: as many solids are seen as named, and they can be paired so that colours, shapes, sizes and relations
  are all right.
- counting: as many are seen as named. What has no clear shape counts too.
- one_object, of captions that name one solid: one of that shape is seen, of whatever colour.
- colours, of the same captions: one of that shape and colour is seen.
- two_objects, of captions that name two solids: both shapes are seen, each in a solid of its own.
- attribute_binding, of the same captions: both are seen, each in its own colour.
- position, of the same captions: both are seen, each in its own colour, and stand to each other as told.

A solid is named by colour and shape in this world, two of which may share the shape, so that `position` asks for the
colours too: it is never above `attribute_binding`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import permutations

from bridgeflow_plugins.blocks.caption import Mention, parse_caption
from bridgeflow_plugins.blocks.judge import Judge, Pixels, Seen


def picture_scores(pictures: Sequence[Pixels], captions: Sequence[str], judge: Judge | None = None) -> dict[str, float]:
    """The scores of pictures, uint8 (H, W, 3), each drawn from its caption; see above.

    Nothing where a caption is not of the blocks world: the judge knows no other. A score that no caption is defined for
    is left out. The judge is the shipped one where none is given.
    """
    named = [parse_caption(caption) for caption in captions]
    if len(pictures) == 0 or any(own is None for own in named):
        return {}
    columns: dict[str, list[float]] = {}
    for seen, mentions in zip((judge or Judge.shipped())(pictures), named, strict=True):
        for name, value in scores_of_one(seen, mentions or []).items():
            columns.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in columns.items()}


def scores_of_one(seen: Sequence[Seen], named: Sequence[Mention]) -> dict[str, float]:
    """The scores of one picture that the caption is defined for, see above."""
    kinds = [(mention.colour, mention.shape) for mention in named]
    found = [(solid.colour, solid.shape) for solid in seen]
    scores = {
        "object_accuracy": _shared(kinds, found) / len(kinds),
        "all_correct": float(_all_correct(seen, named)),
        "counting": float(len(seen) == len(named)),
    }
    shapes = _shared((shape for _, shape in kinds), (shape for _, shape in found)) == len(kinds)
    bound = _shared(kinds, found) == len(kinds)
    if len(named) == 1:
        scores |= {"one_object": float(shapes), "colours": float(bound)}
    if len(named) == 2:
        scores |= {
            "two_objects": float(shapes),
            "attribute_binding": float(bound),
            "position": float(any(_stand_as_told(pair, named) for pair in permutations(seen, 2))),
        }
    return scores


def relation_seen(subject: Seen, other: Seen) -> str | None:
    """How one solid stands to another: one of RELATIONS; None to the right of it, for which captions have no word.

    By the larger of the distances sideways and ahead, as captions are written.
    """
    sideways, ahead = (a - b for a, b in zip(subject.place, other.place, strict=True))
    if abs(ahead) > abs(sideways):
        return "behind" if ahead > 0 else "in front of"
    return "left of" if sideways < 0 else None


def _shared(wanted: Iterable[object], found: Iterable[object]) -> int:
    """How many of the wanted are found, each found one counted once."""
    return sum((Counter(wanted) & Counter(found)).values())


def _all_correct(seen: Sequence[Seen], named: Sequence[Mention]) -> bool:
    if len(seen) != len(named):
        return False
    return any(
        all(solid.size == mention.size for solid, mention in zip(order, named, strict=True))
        and _stand_as_told(order, named)
        for order in permutations(seen)
    )


def _stand_as_told(order: Sequence[Seen], named: Sequence[Mention]) -> bool:
    """Whether each is of the colour and shape named, and the first stands to the others as told."""
    pairs = list(zip(order, named, strict=True))
    if any((solid.colour, solid.shape) != (mention.colour, mention.shape) for solid, mention in pairs):
        return False
    return all(relation_seen(order[0], solid) == mention.relation for solid, mention in pairs[1:])
