"""Latents and their specifications."""

from __future__ import annotations

import pytest
import torch

from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.runtime.randomness import generator


@pytest.mark.parametrize(
    ("shape", "layout", "size", "words"),
    [
        ((5, 7), "sequence", 35, "sequence 5x7"),
        ((3, 16), "grid", 48, "grid 3x16"),
        ((2, 3, 4, 5), "grid", 120, "grid 2x3x4x5"),
    ],
)
def test_a_specification_knows_its_size(shape: tuple[int, ...], layout: str, size: int, words: str) -> None:
    spec = LatentSpec(shape, layout)
    assert spec.size == size
    assert str(spec) == words


def test_a_specification_refuses_a_rank_that_its_layout_lacks() -> None:
    with pytest.raises(ValueError, match=r"sequence latent has shape \(L, D\), not \(3, 4, 5\)"):
        LatentSpec((3, 4, 5), "sequence")
    with pytest.raises(ValueError, match=r"grid latent has shape \(C, \*sizes\), not \(3,\)"):
        LatentSpec((3,), "grid")


def test_a_latent_without_deviation_is_its_mean() -> None:
    latent = Latent(torch.randn(2, 3))
    assert latent.sample(generator(0)) is latent.mean


def test_a_latent_is_drawn_around_its_mean() -> None:
    mean = torch.tensor([[5.0, -3.0]]).expand(20_000, 2)
    std = torch.tensor([[0.1, 4.0]]).expand(20_000, 2)
    drawn = Latent(mean, std).sample(generator(1))
    torch.testing.assert_close(drawn.mean(0), mean[0], rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.std(0), std[0], rtol=0.03, atol=0)
    torch.testing.assert_close(Latent(mean, std).sample(generator(1)), drawn, rtol=0, atol=0)


def test_a_generator_a_row_draws_each_row_alone() -> None:
    latent = Latent(torch.zeros(3, 4), torch.ones(3, 4))
    together = latent.sample([generator(n) for n in range(3)])
    torch.testing.assert_close(together[2:], latent.rows(slice(2, 3)).sample([generator(2)]), rtol=0, atol=0)


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True])])
def test_rows_are_chosen_in_every_part(index: slice | torch.Tensor) -> None:
    mean, mask = torch.arange(6.0).reshape(3, 2), torch.tensor([[True, False], [False, True], [True, True]])
    chosen = Latent(mean, mean + 10, mask).rows(index)
    assert len(chosen) == 2
    assert chosen.mean.tolist() == [[2, 3], [4, 5]]
    assert chosen.std is not None
    assert chosen.std.tolist() == [[12, 13], [14, 15]]
    assert chosen.mask is not None
    assert chosen.mask.tolist() == [[False, True], [True, True]]
    bare = Latent(mean).rows(index)
    assert bare.std is None
    assert bare.mask is None


def test_every_part_moves_to_a_device() -> None:
    moved = Latent(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)).to("meta")
    assert moved.std is not None
    assert moved.mask is not None
    assert {part.device.type for part in (moved.mean, moved.std, moved.mask)} == {"meta"}
    bare = Latent(torch.zeros(2, 3)).to("meta")
    assert bare.std is None
    assert bare.mask is None
