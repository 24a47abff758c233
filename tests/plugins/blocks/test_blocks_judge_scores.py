"""The scores of what was seen against what was named, on cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bridgeflow_plugins.blocks import parse_caption
from bridgeflow_plugins.blocks.judge import Seen
from bridgeflow_plugins.blocks.judge_scores import picture_scores, relation_seen, scores_of_one


def seen(words: str, x: float = 0.0, y: float = 5.0) -> Seen:
    size, colour, shape = words.split()
    return Seen(size, colour, None if shape == "blob" else shape, 0.5, 0.5, (x, y), 1.0)


def scores(caption: str, *solids: Seen) -> dict[str, float]:
    named = parse_caption(caption)
    assert named is not None
    return scores_of_one(solids, named)


ONE = "a small red cube"
TWO = "a small red cube left of a large blue cone"
THREE = TWO + " and behind a small blue sphere"


def test_one_solid_seen_as_named() -> None:
    assert scores(ONE, seen("small red cube")) == {
        "object_accuracy": 1,
        "all_correct": 1,
        "counting": 1,
        "one_object": 1,
        "colours": 1,
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("large red cube", (1, 0, 1, 1, 1)),
        ("small blue cube", (0, 0, 1, 1, 0)),
        ("small red cone", (0, 0, 1, 0, 0)),
        ("small red blob", (0, 0, 1, 0, 0)),
    ],
)
def test_one_solid_seen_otherwise(words: str, expected: tuple[int, ...]) -> None:
    assert tuple(scores(ONE, seen(words)).values()) == expected


def test_nothing_seen_is_nothing_right() -> None:
    assert set(scores(THREE).values()) == {0.0}


def test_one_too_many_spoils_the_count_alone() -> None:
    figures = scores(ONE, seen("small red cube"), seen("small green blob", 1))
    assert figures == {"object_accuracy": 1, "all_correct": 0, "counting": 0, "one_object": 1, "colours": 1}


def test_two_solids_as_told() -> None:
    figures = scores(TWO, seen("large blue cone", 1.0), seen("small red cube", -1.0, 5.5))
    assert figures == {
        "object_accuracy": 1,
        "all_correct": 1,
        "counting": 1,
        "two_objects": 1,
        "attribute_binding": 1,
        "position": 1,
    }


def test_two_solids_that_stand_otherwise() -> None:
    for x, y in ((1.0, 5.0), (-0.4, 6.0), (-0.4, 4.0)):
        figures = scores(TWO, seen("small red cube", x, y), seen("large blue cone", 0.0))
        assert figures["attribute_binding"] == 1
        assert figures["position"] == figures["all_correct"] == 0


def test_swapped_colours_are_two_objects_but_not_bound() -> None:
    figures = scores(TWO, seen("small blue cube", -1.0), seen("large red cone", 1.0))
    assert figures == {
        "object_accuracy": 0,
        "all_correct": 0,
        "counting": 1,
        "two_objects": 1,
        "attribute_binding": 0,
        "position": 0,
    }


def test_a_seen_solid_counts_once() -> None:
    twice = "a small red cube left of a large red cube"
    figures = scores(twice, seen("small red cube"))
    assert figures["object_accuracy"] == 0.5
    assert figures["two_objects"] == figures["attribute_binding"] == 0
    both = (seen("large red cube", 1.0), seen("small red cube", -1.0))
    assert scores(twice, *both)["all_correct"] == 1
    other = (seen("large red cube", -1.0), seen("small red cube", 1.0))
    assert scores(twice, *other)["all_correct"] == 0, "the small one is to stand left"
    assert scores(twice, *other)["position"] == 1, "sizes are no part of a position"


def test_three_solids_need_both_relations() -> None:
    cube, cone = seen("small red cube", -1.0, 5.5), seen("large blue cone", 1.0, 5.0)
    right = scores(THREE, cube, cone, seen("small blue sphere", -0.6, 4.0))
    assert right == {"object_accuracy": 1, "all_correct": 1, "counting": 1}
    wrong = scores(THREE, cube, cone, seen("small blue sphere", -0.6, 7.0))
    assert wrong == {"object_accuracy": 1, "all_correct": 0, "counting": 1}
    assert scores(THREE, cube, cone)["object_accuracy"] == pytest.approx(2 / 3)


def test_relations_go_by_the_larger_distance() -> None:
    here = seen("small red cube")
    assert relation_seen(seen("small red cube", -1.0, 5.9), here) == "left of"
    assert relation_seen(seen("small red cube", 1.0, 5.9), here) is None
    assert relation_seen(seen("small red cube", 0.9, 6.0), here) == "behind"
    assert relation_seen(seen("small red cube", -0.9, 4.0), here) == "in front of"


def test_captions_of_another_world_are_not_scored() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    assert picture_scores([picture, picture], [ONE, "a dog on a beach"]) == {}
    assert picture_scores([], []) == {}
    figures = picture_scores([picture, picture], [ONE, TWO])
    assert {"object_accuracy", "all_correct", "counting", "colours", "position"} < figures.keys()
    assert set(figures.values()) == {0.0}
