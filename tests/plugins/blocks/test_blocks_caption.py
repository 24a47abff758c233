"""The caption grammar and its parser."""

from __future__ import annotations

import pytest

from bridgeflow_plugins.blocks import Mention, parse_caption
from bridgeflow_plugins.blocks.caption import write_caption
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
