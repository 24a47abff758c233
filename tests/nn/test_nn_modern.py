"""The modern block: what its positions and norms promise."""

from __future__ import annotations

import pytest
import torch

from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dit import DiT, DiTSettings
from bridgeflow.nn.modern import ModernBlock, RotaryAttention, SwiGLU, rotated, rotations


def test_scores_depend_on_how_far_tokens_are_apart() -> None:
    turns = rotations((5, 6), 16)
    query, key = torch.randn(16), torch.randn(16)
    turned_query, turned_key = (rotated(own.expand(1, 30, 16), turns)[0].view(5, 6, 16) for own in (query, key))

    def score(a: tuple[int, int], b: tuple[int, int]) -> float:
        return float(turned_query[a] @ turned_key[b])

    assert score((0, 0), (1, 2)) == pytest.approx(score((3, 3), (4, 5)), abs=1e-4)
    assert score((2, 1), (0, 0)) == pytest.approx(score((4, 5), (2, 4)), abs=1e-4)
    # Each axis counts, and so does the direction.
    assert len({round(score((2, 2), other), 4) for other in ((2, 2), (2, 3), (3, 2), (2, 1), (1, 2))}) == 5


def test_lengths_stay_and_an_indicator_is_not_turned() -> None:
    turns = rotations((4,), 10, before=1)
    x = torch.randn(2, 5, 3, 10)
    found = rotated(x, turns)
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(found[:, :2], x[:, :2])
    assert not torch.allclose(found[:, 2], x[:, 2])
    # Of 7 features one has no pair.
    odd = rotated(torch.ones(1, 4, 7), rotations((4,), 7))
    assert (odd[..., -1] == 1).all()
    assert rotations((2, 2, 2), 10).shape == (2, 8, 5)


def test_scores_are_bounded_by_the_gains() -> None:
    attention = RotaryAttention(32, 4)
    turns = rotations((6,), 8)
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(attention(1e3 * x, turns).isfinite().all(), torch.tensor(True))
    with torch.no_grad():
        attention.qkv.weight[:64] *= 1e3
    # Queries and keys of any length have the same scores.
    before = attention(x, turns)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 10
    torch.testing.assert_close(attention(x, turns), before, atol=1e-4, rtol=1e-4)


def test_the_gated_mlp_has_as_many_weights_as_a_plain_one() -> None:
    count = sum(own.numel() for own in SwiGLU(192, 4.0).parameters())
    assert count == pytest.approx(2 * 192 * 768, rel=0.01)


def test_a_block_does_nothing_until_it_is_trained() -> None:
    x = torch.randn(2, 5, 32)
    block = ModernBlock(32, 4, 4.0, 12)
    found = block(x, torch.randn(2, 32), rotations((5,), 8), torch.randn(2, 3, 12), None)
    assert torch.equal(found, x)


def test_only_its_positions_are_no_weights() -> None:
    own = DiTSettings(width=32, depth=1, heads=4, block="modern").build(LatentSpec((2, 4, 4), "grid"))
    assert isinstance(own, DiT)
    assert not any("turns" in name or "positions" in name for name in own.state_dict())
    other = DiTSettings(width=32, depth=1, heads=4).build(LatentSpec((2, 4, 4), "grid"))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (own, other)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.03)
