"""What a model knows is told from what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from skimage import data

from bridgeflow.inference.familiarity import NAME, Familiarity, can_judge, numbers
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow_plugins.blocks.render import render_scene


def latents(images: list[np.ndarray]) -> Latent:
    """Pictures as (B, 3, 32, 32) in [-1, 1]."""
    pixels = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1 for image in images])
    return Latent(torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True))


def scenes(split: str, count: int) -> Latent:
    return latents([render_scene(3, split, index, 64)["image"] for index in range(count)])  # type: ignore[arg-type]


def fitted() -> Familiarity:
    own = Familiarity.fitted(
        "grid", [numbers(scenes("train", 400), "grid")], [numbers(scenes("held_out", 100), "grid")]
    )
    assert own is not None
    return own


def test_photographs_are_strange_to_a_model_of_blocks_and_blocks_are_not(tmp_path: Path) -> None:
    own = fitted()
    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    for picture in photographs:
        assert own.is_ood(latents([picture])).tolist() == [True]
    others = latents([render_scene(4, "held_out", index, 96)["image"] for index in range(100)])
    assert int(own.is_ood(others).sum()) <= 3
    own.save(tmp_path)
    again = Familiarity.read(tmp_path)
    assert again is not None
    assert torch.equal(again.is_ood(others), own.is_ood(others))
    assert again.is_ood(latents(photographs[:1])).all()


def test_a_sequence_is_judged_by_its_real_positions() -> None:
    draw = torch.Generator().manual_seed(0)

    def words(count: int, shift: float = 0.0) -> Latent:
        mask = torch.arange(6) < torch.randint(2, 7, (count, 1), generator=draw)
        mean = torch.randn(count, 6, 8, generator=draw) + shift
        return Latent(torch.where(mask[..., None], mean, 1e3), None, mask)

    own = Familiarity.fitted("sequence", [numbers(words(600), "sequence")], [numbers(words(200), "sequence")])
    assert own is not None
    assert int(own.is_ood(words(200)).sum()) <= 4
    assert bool(own.is_ood(words(20, shift=4.0)).all())


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    assert Familiarity.read(tmp_path) is None
    (tmp_path / NAME).write_bytes(b"damaged")
    assert Familiarity.read(tmp_path) is None
    few = numbers(scenes("train", 5), "grid")
    assert Familiarity.fitted("grid", [few], [few]) is None
    # Latents of another size have as many numbers; those of other channels do not, and are left alone.
    own = fitted()
    assert not own.is_ood(Latent(torch.zeros(2, 1, 32, 32))).any()


def test_which_latents_are_judged() -> None:
    assert can_judge(LatentSpec((3, 64, 64), "grid"))
    assert can_judge(LatentSpec((32, 384), "sequence"))
    assert not can_judge(LatentSpec((3, 4, 4), "grid"))
    assert not can_judge(LatentSpec((1, 8, 8, 8), "grid"))
    assert not can_judge(LatentSpec((77, 4096), "sequence"))
