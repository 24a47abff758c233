"""Muon: its step is that of torch's own, and which parameters take it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.config.muon import Joined, Muon, MuonSettings
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.training.optimizers import build_optimizer

GRID = LatentSpec((2, 4, 4), "grid")


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has had Muon since 2.9")
@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_its_steps_are_those_of_torch_but_for_the_rounding_of_bfloat16(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    ends = []
    for kind in (Muon, torch.optim.Muon):
        weight = nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.1, weight_decay=0.01, momentum=0.9)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach())
    moved = (ends[1] - start).norm()
    assert moved > 0.3
    assert (ends[0] - ends[1]).norm() < 0.03 * moved


def test_it_takes_the_matrices_inside_blocks_and_adamw_the_rest() -> None:
    bridge = Bridge(BridgeSettings(), DiTSettings(width=16, depth=2, heads=2), GRID, GRID)
    names = {id(own): name for name, own in bridge.named_parameters()}
    optimizer = build_optimizer(bridge, MuonSettings(learning_rate=0.5, adamw_rate=0.25))
    assert isinstance(optimizer, Joined)
    muon, *adamw = optimizer.param_groups
    assert {names[id(own)] for own in muon["params"]} == {
        f"network.blocks.{block}.{layer}.weight"
        for block in range(2)
        for layer in ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    }
    assert [group["lr"] for group in (muon, *adamw)] == [0.5, 0.25, 0.25]
    given = [id(own) for group in optimizer.param_groups for own in group["params"]]
    assert sorted(given) == sorted(names)


def test_without_blocks_all_is_adamw() -> None:
    optimizer = build_optimizer(nn.Linear(4, 4), MuonSettings())
    assert isinstance(optimizer, Joined)
    assert not any(isinstance(part, Muon) for part in optimizer.parts)
