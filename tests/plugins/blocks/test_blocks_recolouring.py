"""Changes of colour: what the words mean, and what differs between the two pictures."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from bridgeflow_plugins.blocks.recolouring import Instruction, RecolouredBlocks, draw_change, parse_instruction
from bridgeflow_plugins.blocks.render import render, render_scene
from bridgeflow_plugins.blocks.scene import draw_scene


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RecolouredBlocks:
    return RecolouredBlocks(size=40, held_out=8, workers=1, cache=str(tmp_path_factory.mktemp("cache")))


def test_words_mean_one_solid_which_alone_changes() -> None:
    sentences = set()
    for index in range(300):
        scene = draw_scene(3, "train", index)
        instruction, after = draw_change(scene, np.random.default_rng(index))
        meant = [solid for solid in scene.solids if instruction.means(solid)]
        assert len(meant) == 1
        for before, now in zip(scene.solids, after.solids, strict=True):
            assert now.colour == (instruction.wanted if before is meant[0] else before.colour)
            assert (now.size, now.shape, now.x, now.y, now.yaw) == (
                before.size,
                before.shape,
                before.x,
                before.y,
                before.yaw,
            )
        assert meant[0].colour != instruction.wanted
        assert len({(solid.colour, solid.shape) for solid in after.solids}) == len(after.solids)
        sentences.add((instruction.size is None, instruction.colour is None))
    # Every way to name a solid is drawn.
    assert len(sentences) == 4


def test_only_the_solid_differs_between_the_pictures() -> None:
    for index in range(20):
        scene = draw_scene(4, "train", index)
        instruction, after = draw_change(scene, np.random.default_rng(index))
        before, _, objects = render(scene, 64)
        place = next(i for i, solid in enumerate(scene.solids, 1) if instruction.means(solid))
        differs = (before != render(after, 64)[0]).any(-1)
        # Pixels on an edge are averages over four rays, of which the mask tells one.
        near = np.zeros_like(differs)
        rows, columns = np.nonzero(objects == place)
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                near[(rows + down).clip(0, 63), (columns + across).clip(0, 63)] = True
        assert differs[objects == place].mean() > 0.9
        assert not differs[~near].any()


def test_rows_are_those_of_the_scenes_with_words_and_the_picture_after_them(settings: RecolouredBlocks) -> None:
    rows = settings.open("train")
    assert len(rows) == 40
    assert rows.columns == settings.known_columns == ("image", "text", "edited")
    row = rows[7]
    assert np.array_equal(row["image"], render_scene(0, "train", 7)["image"])
    assert row["edited"].shape == (64, 64, 3)
    assert parse_instruction(row["text"]) is not None
    again = pickle.loads(pickle.dumps(rows))[7]
    assert again["text"] == row["text"]
    assert np.array_equal(again["edited"], row["edited"])
    assert rows[-1]["text"] == rows[39]["text"]
    assert len({rows[index]["text"] for index in range(40)}) > 30
    held_out = settings.open("held_out")
    assert len(held_out) == 8
    assert held_out.fingerprint != rows.fingerprint


def test_the_first_rows_are_the_same_ones(tmp_path: Path, settings: RecolouredBlocks) -> None:
    alone = RecolouredBlocks(size=40, workers=1, cache=str(tmp_path)).open_first(4)
    assert len(alone) == 4
    assert [alone[i]["text"] for i in range(4)] == [settings.open("train")[i]["text"] for i in range(4)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("make the cube red", (None, None, "cube", "red")),
        ("Make the  small CUBE red", ("small", None, "cube", "red")),
        ("make the blue cube red", (None, "blue", "cube", "red")),
        ("make the large blue cube red", ("large", "blue", "cube", "red")),
    ],
)
def test_sentences_are_read(text: str, found: tuple[str | None, ...]) -> None:
    instruction = parse_instruction(text)
    assert instruction == found
    assert str(instruction) == " ".join(text.lower().split())


@pytest.mark.parametrize("text", ["", "make the cube", "make the blue red", "make the cube red now", "the cube red"])
def test_other_words_are_none(text: str) -> None:
    assert parse_instruction(text) is None
    assert isinstance(Instruction(None, None, "cube", "red"), Instruction)
