"""Colour swaps by arithmetic: what is drawn, and that the score tells a model that swaps from one that does not."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridgeflow.runtime.console import Progress
from bridgeflow_plugins.blocks import render_scene
from bridgeflow_plugins.blocks.caption import parse_caption
from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES
from bridgeflow_tasks import colour_swaps
from bridgeflow_tasks.colour_swaps import main, score, swaps


@lru_cache
def solids() -> dict[str, np.ndarray]:
    """A picture for each caption of one solid."""
    pictures: dict[str, np.ndarray] = {}
    index = 0
    while len(pictures) < len(SIZES) * len(COLOURS) * len(SHAPES):
        row = render_scene(33, "train", index)
        if len(parse_caption(row["text"]) or []) == 1:
            pictures.setdefault(row["text"], row["image"])
        index += 1
    return pictures


class Painter:
    """In the place of a pipeline: gives a rendered picture of what a caption says, for sums only where it can add."""

    def __init__(self, adds: bool) -> None:
        self.adds = adds
        self.pictures = solids()

    def generate(self, captions: list[str], seed: int = 0) -> list[list[np.ndarray]]:
        return [[self.pictures[caption]] for caption in captions]

    def combine(self, items: list[str], plus: list[str], minus: list[str], seed: int = 0) -> list[list[np.ndarray]]:
        if not self.adds:
            return self.generate(items)
        new, old = (next(word for word in term.split() if word in COLOURS) for term in (plus[0], minus[0]))
        return self.generate([item.replace(old, new) for item in items])


def test_swaps_change_the_colour_of_a_solid_by_way_of_another() -> None:
    drawn = swaps(100, 3)
    assert drawn == swaps(100, 3)
    assert drawn != swaps(100, 4)
    for own in drawn:
        captions = [own.start, own.direct, own.plus, own.minus]
        named = [parse_caption(caption) for caption in captions]
        assert all(one is not None and len(one) == 1 for one in named)
        start, direct, plus, minus = (one[0] for one in named if one)
        assert start.colour == minus.colour != plus.colour == direct.colour
        assert start.shape == direct.shape != plus.shape == minus.shape
    assert len({own.start for own in drawn}) > 40


@pytest.mark.parametrize("adds", [True, False])
def test_the_score_tells_who_swaps(adds: bool) -> None:
    painter: Any = Painter(adds)
    found = score(painter, 40, 0, Progress(quiet=True))
    assert found["direct"] > 0.9
    if adds:
        assert min(found["swap"], found["words"]) > 0.9
        assert found["unchanged"] == 0
    else:
        assert max(found["swap"], found["words"]) == 0
        assert found["unchanged"] > 0.9


def test_the_command_prints_the_shares(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    painter = Painter(True)
    monkeypatch.setattr(colour_swaps.api, "load", lambda model: painter)
    assert main(["model", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["direct"] == 1.0


@pytest.mark.parametrize("line", [[], ["--help"], ["a", "b"], ["a", "1", "2"]])
def test_wrong_usage_is_told(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert "usage: python -m bridgeflow_tasks.colour_swaps" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
