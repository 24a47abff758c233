"""The judge of pictures: what it sees in scenes, and what it does not see where there is nothing."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.blocks import parse_caption, render_scene
from bridgeflow_plugins.blocks.judge import WEIGHTS, Judge, Pixels
from bridgeflow_plugins.blocks.judge_network import JudgeNetwork
from bridgeflow_plugins.blocks.judge_pictures import blob_scenes, blurred, drawn_scenes
from bridgeflow_plugins.blocks.judge_scores import picture_scores
from bridgeflow_plugins.blocks.judge_training import SEED

DRAWN = 100


@pytest.fixture(scope="module")
def scenes() -> tuple[list[Pixels], list[str]]:
    rows = [render_scene(3, "held_out", index) for index in range(DRAWN)]
    return [row["image"] for row in rows], [row["text"] for row in rows]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.shipped()


def test_drawn_scenes_are_seen_right(judge: Judge, scenes: tuple[list[Pixels], list[str]]) -> None:
    figures = picture_scores(*scenes, judge)
    assert figures["object_accuracy"] >= 0.97
    assert figures["all_correct"] >= 0.93
    assert figures["counting"] >= 0.95


def test_places_are_those_of_the_scene(judge: Judge) -> None:
    truth = drawn_scenes(5, "held_out", 40)
    things = truth.things
    errors, middles = [], []
    for number, seen in enumerate(judge(list(truth.pictures.numpy()))):
        real = [at for at in range(3) if things.colour[number, at] >= 0]
        if len(seen) != len(real):
            continue
        for one, at in zip(seen, real, strict=True):
            place = things.place[number, at].tolist()
            errors.append(np.hypot(one.place[0] - place[0], one.place[1] - 5.0 - place[1]))
            x, y = (things.middle[number, at] / 64).tolist()
            middles.append(np.hypot(one.across - x, one.down - y))
    assert len(errors) >= 60
    assert np.median(errors) < 0.15, "metres on the floor"
    assert np.median(middles) < 1 / 64, "within a pixel"


def test_captions_of_other_scenes_are_not_confirmed(judge: Judge, scenes: tuple[list[Pixels], list[str]]) -> None:
    pictures, captions = scenes
    figures = picture_scores(pictures, captions[1:] + captions[:1], judge)
    assert figures["object_accuracy"] < 0.15
    assert figures["all_correct"] == 0


def test_swapped_colours_are_not_confirmed(judge: Judge, scenes: tuple[list[Pixels], list[str]]) -> None:
    pictures, swapped = [], []
    for picture, caption in zip(*scenes, strict=True):
        named = parse_caption(caption) or []
        if len(named) == 2 and named[0].colour != named[1].colour and named[0].shape != named[1].shape:
            words = caption.split()
            words[2], words[-2] = words[-2], words[2]
            assert {words[2], words[-2]} == {named[0].colour, named[1].colour}
            pictures.append(picture)
            swapped.append(" ".join(words))
    assert len(pictures) >= 10
    figures = picture_scores(pictures, swapped, judge)
    assert figures["two_objects"] >= 0.9
    assert figures["attribute_binding"] == figures["all_correct"] == 0


def test_where_nothing_is_nothing_is_seen(judge: Judge, scenes: tuple[list[Pixels], list[str]]) -> None:
    rng = np.random.default_rng(0)
    flat = [np.full((64, 64, 3), value, np.uint8) for value in range(0, 256, 15)]
    noise = list(rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))
    mean = [np.stack(scenes[0]).mean(0).astype(np.uint8)]
    assert [seen for seen in judge(flat + noise + mean) if seen] == []


def test_a_blob_has_no_shape(judge: Judge) -> None:
    blobs = blob_scenes(9, 100)
    painted = int((blobs.things.colour >= 0).sum())
    seen = [one for own in judge(list(blobs.pictures.numpy())) for one in own]
    assert len(seen) > 0.7 * painted, "blobs are there to be seen"
    assert sum(one.shape is not None for one in seen) <= 0.05 * painted


def test_blur_takes_the_shapes_before_the_colours(judge: Judge, scenes: tuple[list[Pixels], list[str]]) -> None:
    pictures, captions = scenes
    tensor = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()

    def after(sigma: float) -> dict[str, float]:
        soft = blurred(tensor, torch.full((DRAWN,), sigma)).round().byte().permute(0, 2, 3, 1).numpy()
        return picture_scores(list(soft), captions, judge)

    assert after(1.0)["object_accuracy"] >= 0.95
    assert after(4.0)["object_accuracy"] <= 0.3
    assert after(4.0)["counting"] >= 0.5


def test_other_sizes_are_resized(judge: Judge) -> None:
    large = [render_scene(3, "held_out", index, 128) for index in range(20)]
    figures = picture_scores([row["image"] for row in large], [row["text"] for row in large], judge)
    assert figures["object_accuracy"] >= 0.95


def test_a_picture_is_judged_alike_alone_and_among_others(scenes: tuple[list[Pixels], list[str]]) -> None:
    pictures = scenes[0][:12]
    together, alone = Judge.load(WEIGHTS)(pictures), Judge.load(WEIGHTS)
    for picture, seen in zip(pictures, together, strict=True):
        (own,) = alone([picture])
        assert [(one.colour, one.shape, one.size) for one in own] == [(one.colour, one.shape, one.size) for one in seen]


def test_a_known_picture_is_not_looked_at_again(judge: Judge, scenes: tuple[list[Pixels], list[str]]) -> None:
    first = judge(scenes[0])
    started = time.perf_counter()
    assert judge(scenes[0]) == first
    assert time.perf_counter() - started < 0.05
    first[0].clear()
    assert judge(scenes[0][:1]) != [[]], "what a caller does to a list is no concern of the next"


def test_the_weights_are_small_and_fit() -> None:
    assert WEIGHTS.stat().st_size < 2**20
    assert SEED != 0, "recipes draw from seed 0"
    assert sum(own.numel() for own in JudgeNetwork().parameters()) < 500_000


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_damaged_weights_are_named_in_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "judge.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BridgeflowError, match=r"judge\.safetensors: install bridgeflow anew"):
        Judge.load(path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "judge.safetensors"
    save_file({"head.weight": torch.zeros(3)}, path)
    with pytest.raises(BridgeflowError, match="cannot be read from"):
        Judge.load(path)
    save_file({}, path)
    with pytest.raises(BridgeflowError, match="cannot be read from"):
        Judge.load(path)
