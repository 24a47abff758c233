"""What the judge learns from, and that it learns the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgeflow_plugins.blocks import judge_training, parse_caption, render_scene
from bridgeflow_plugins.blocks.judge import Seen
from bridgeflow_plugins.blocks.judge_network import CELLS, UNCLEAR, WIDTHS, Maps
from bridgeflow_plugins.blocks.judge_pictures import (
    IGNORED,
    Scenes,
    Things,
    blob_scenes,
    blurred,
    compressed,
    disturbed,
    drawn_scenes,
)
from bridgeflow_plugins.blocks.judge_scores import scores_of_one
from bridgeflow_plugins.blocks.judge_training import loss_of, train
from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES

COUNT = 40


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return drawn_scenes(13, "held_out", COUNT)


def told(things: Things, number: int) -> list[Seen]:
    """What a judge without fault sees."""
    real = [at for at in range(3) if things.colour[number, at] >= 0]
    return [
        Seen(
            SIZES[int(things.size[number, at])],
            COLOURS[int(things.colour[number, at])],
            SHAPES[int(things.shape[number, at])],
            *(things.middle[number, at] / 64).tolist(),
            tuple(things.place[number, at].tolist()),
            1.0,
        )
        for at in real
    ]


def test_what_is_to_be_learned_is_what_captions_name(scenes: Scenes) -> None:
    for number in range(COUNT):
        caption = render_scene(13, "held_out", number)["text"]
        assert scores_of_one(told(scenes.things, number), parse_caption(caption) or [])["all_correct"] == 1


def test_middles_lie_on_their_solids(scenes: Scenes) -> None:
    on = []
    for number in range(COUNT):
        row = render_scene(13, "held_out", number)
        assert (row["image"] == scenes.pictures[number].numpy()).all()
        for at, one in enumerate(told(scenes.things, number), start=1):
            on.append(row["objects"][int(one.down * 64), int(one.across * 64)] == at)
    assert np.mean(on) > 0.9, "all but those that another solid hides"


def test_mirrored_pictures_keep_their_things(scenes: Scenes) -> None:
    pictures, things = disturbed(scenes, torch.Generator().manual_seed(0))
    moved = (things.middle[:, 0, 0] - scenes.things.middle[:, 0, 0]).abs() > 1e-3
    assert 10 < int(moved.sum()) < 35
    assert torch.allclose(things.middle[moved, 0, 0], 64 - scenes.things.middle[moved, 0, 0])
    assert torch.allclose(things.place[moved, 0, 0], -scenes.things.place[moved, 0, 0])
    assert pictures.abs().max() <= 1
    plain = scenes.pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    kept = (pictures - plain).abs().mean((1, 2, 3)) < (pictures - plain.flip(-1)).abs().mean((1, 2, 3))
    assert torch.equal(kept, ~moved)


def test_heavy_blur_takes_the_shape(scenes: Scenes) -> None:
    shapes = torch.stack([disturbed(scenes, torch.Generator().manual_seed(seed))[1].shape for seed in range(8)])
    real = scenes.things.shape >= 0
    share = (shapes[:, real] == UNCLEAR).float().mean()
    assert 0.01 < share < 0.12
    assert (shapes[:, ~real] == IGNORED).all()


def test_blur_has_the_width_asked_for() -> None:
    spot = torch.zeros(2, 1, 33, 33)
    spot[:, :, 16, 16] = 1
    wide = blurred(spot, torch.tensor([0.0, 2.0]))
    assert torch.allclose(wide[0], spot[0], atol=1e-6)
    away = torch.arange(33.0) - 16
    assert float(wide[1].sum()) == pytest.approx(1, abs=1e-4)
    assert float((wide[1, 0].sum(0) * away**2).sum()) == pytest.approx(4, rel=0.03)


def test_compression_rounds_within_its_step() -> None:
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fine, coarse = compressed(pictures, torch.tensor([1e-4, 0.4]))
    assert (fine - pictures[0]).abs().max() < 2e-3
    assert 0.05 < (coarse - pictures[1]).square().mean().sqrt() < 0.4
    flat = torch.full((1, 3, 64, 64), 0.5)
    assert torch.allclose(compressed(flat, torch.tensor([0.1])), flat, atol=0.01)


def test_maps_that_tell_the_truth_cost_nothing() -> None:
    things = drawn_scenes(13, "held_out", 1).things
    maps = Maps(*(torch.zeros(1, width, CELLS, CELLS) for width in WIDTHS))
    steps = torch.arange(CELLS) + 0.5
    cells = torch.stack([steps[None, :].expand(CELLS, CELLS), steps[:, None].expand(CELLS, CELLS)])
    maps.heat[:] = -20
    for at in reversed(range(len(told(things, 0)))):
        middle = things.middle[0, at] / 2
        near = (cells - middle[:, None, None]).square().sum(0) <= 2.5
        maps.heat[0, 0, int(middle[1]), int(middle[0])] = 20
        maps.offset[0][:, near] = (middle[:, None, None] - cells)[:, near]
        for name in ("colour", "shape", "size"):
            getattr(maps, name)[0, :, near] = 0
            getattr(maps, name)[0, int(getattr(things, name)[0, at])][near] = 20
        maps.place[0][:, near] = things.place[0, at][:, None]
    right = {name: float(value) for name, value in loss_of(maps, things).items()}
    assert max(right.values()) < 1e-4
    maps.heat[:] = -20
    maps.place[:] += 1
    wrong = loss_of(maps, things)
    assert wrong["heat"] > 10
    assert wrong["place"] > 1
    assert wrong["colour"] < 1e-4


def test_two_trainings_are_alike(
    scenes: Scenes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Batches with a few of each kind: what is drawn and in which order does not depend on how many.
    monkeypatch.setattr(judge_training, "SHARES", (6, 2, 2))
    blobs = blob_scenes(13, 20)
    one, other = train(scenes, blobs, 2, seed=5), train(scenes, blobs, 2, seed=5)
    third = train(scenes, blobs, 2, seed=6)
    assert torch.equal(one.head.weight, other.head.weight)
    assert not torch.equal(one.head.weight, third.head.weight)
    assert "2/2" in capsys.readouterr().err
