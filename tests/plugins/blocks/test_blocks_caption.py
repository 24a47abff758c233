"""The caption grammar and its parser."""

from __future__ import annotations

import pytest

from bridgeflow_plugins.blocks import Mention, parse_caption
from bridgeflow_plugins.blocks.caption import blocks_scores, write_caption
from bridgeflow_plugins.blocks.scene import draw_scene


def test_three_solids_are_told_with_two_relations():
    text = "a small red sphere left of a large blue cube and behind a small green cone"
    assert parse_caption(text) == [
        Mention("small", "red", "sphere", None),
        Mention("large", "blue", "cube", "left of"),
        Mention("small", "green", "cone", "behind"),
    ]


def test_parsing_and_writing_are_inverse_over_many_scenes():
    lengths = set()
    for index in range(500):
        text = draw_scene(11, "train", index).caption
        found = parse_caption(text)
        assert found is not None
        assert write_caption(found) == text
        lengths.add(len(found))
    assert lengths == {1, 2, 3}


def test_case_and_spaces_are_forgiven():
    assert parse_caption("  A large  GREY cone\n") == [Mention("large", "grey", "cone", None)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a large cone",
        "a large pink cone",
        "a grey large cone",
        "large grey cone",
        "a large grey cone left of",
        "a large grey cone left a small red cube",
        "a large grey cone right of a small red cube",
        "a large grey cone and a small red cube",
        "a large grey cone behind a small red cube behind a small red cone",
        "a large grey cone behind a small red cube and behind a small red cone and behind a small red sphere",
        "a large grey cone.",
    ],
)
def test_anything_else_is_no_caption(text):
    assert parse_caption(text) is None


def test_scores_of_captions_by_hand() -> None:
    truths = [
        "a small red cube",
        "a small red cube left of a large blue sphere",
        "a small red cube behind a large blue sphere and left of a small grey cone",
    ]
    assert all(parse_caption(truth) for truth in truths)
    results = [
        "a small red cube",
        "a large red cube behind a large blue sphere",
        "a small red cube left of a large blue cylinder",
    ]
    own = blocks_scores(results, truths)
    assert own == pytest.approx(
        {
            "exact_match_1": 1.0,
            "exact_match_2": 0.0,
            "exact_match_3": 0.0,
            "count": 2 / 3,
            "size": (1 + 1 / 2 + 2 / 3) / 3,
            "colour": (1 + 1 + 2 / 3) / 3,
            "shape": (1 + 1 + 1 / 3) / 3,
            "relation": (0 + 0) / 2,
            "object_accuracy": (1 + 1 + 1 / 3) / 3,
        }
    )
    assert set(blocks_scores(truths, truths).values()) == {1.0}
    assert blocks_scores(["nonsense"], truths[:1]) == pytest.approx(
        {"exact_match_1": 0.0, "count": 0.0, "size": 0.0, "colour": 0.0, "shape": 0.0, "object_accuracy": 0.0}
    )
    assert blocks_scores(["a dog"], ["a dog"]) == {}
    assert blocks_scores([], []) == {}
