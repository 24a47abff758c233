"""Short trainings on tasks with a known answer: the bridge learns, by a wide margin over the trivial loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.flow.solver import Euler
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.nn.velocity import NetworkSettings
from bridgeflow.runtime.randomness import generator

STEPS = 200
Pairs = Callable[[int], tuple[Latent, Latent]]


def train(bridge: Bridge, pairs: Pairs, rate: float) -> dict[str, float]:
    """Each loss, averaged over the last 20 of `STEPS` steps of AdamW with a falling rate."""
    optimizer = torch.optim.AdamW(bridge.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    last: dict[str, float] = {}
    for step in range(STEPS):
        losses = bridge(*pairs(step), generator("step", step))
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(bridge.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= STEPS - 20:
            last = {name: last.get(name, 0.0) + float(term) / 20 for name, term in losses.terms.items()}
    bridge.eval()
    return last


def build(settings: dict[str, Any], network: NetworkSettings, source: LatentSpec, target: LatentSpec) -> Bridge:
    torch.manual_seed(0)
    return Bridge(BridgeSettings.model_validate(settings), network, source, target).train()


def test_a_direct_bridge_learns_to_sharpen() -> None:
    """Each grid goes to itself with its distance from its 3x3 means doubled, with a U-Net."""
    spec = LatentSpec((1, 8, 8), "grid")

    def pairs(step: int) -> tuple[Latent, Latent]:
        z0 = torch.randn(8, 1, 8, 8, generator=generator("grid", step))
        mean = F.avg_pool2d(z0, 3, stride=1, padding=1, count_include_pad=False)
        return Latent(z0), Latent(z0 + 2 * (z0 - mean))

    bridge = build({"null_rate": 0.0}, UNetSettings(channels=(12, 16), blocks=1), spec, spec)
    flow = train(bridge, pairs, 4e-3)["flow"]
    source, target = pairs(STEPS)
    # A velocity of zero; the exact one is known from state and time, so that the least loss is 0.
    trivial = float((target.mean - source.mean).square().mean())
    error = float((bridge.sample(bridge.encode(source), Euler(), 4) - target.mean).square().mean())
    assert trivial == pytest.approx(3.4, abs=0.3)
    assert flow < 0.1 * trivial
    assert error < 0.1 * trivial


SOURCES: dict[str, dict[str, Any]] = {
    "noisy": {"mean_norm": "batch"},
    "variational": {},
    "noise": {},
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_bridge_between_shapes_learns_classes(name: str) -> None:
    """Six classes, shown as sequences, go to narrow Gaussians around six grids, with a DiT."""
    source_spec, target_spec = LatentSpec((3, 6), "sequence"), LatentSpec((2, 4, 4), "grid")
    words = torch.randn(6, 3, 6, generator=generator("words"))
    centres = torch.randn(6, 2, 4, 4, generator=generator("centres"))
    labels = torch.arange(48) % 6

    def pairs(step: int) -> tuple[Latent, Latent]:
        spread = 0.1 * torch.randn(48, 2, 4, 4, generator=generator("spread", step))
        return Latent(words[labels]), Latent(centres[labels] + spread)

    learned = name != "noise"
    size = {"width": 32, "depth": 1, "heads": 2, "target_patch": 2} if learned else {}
    settings = {
        "source_encoder": {"name": name, **SOURCES[name], **size},
        "encoding": {"name": "cross" if learned else "none", "weight": 0.1},
        "null_rate": 0.0,
    }
    bridge = build(settings, DiTSettings(width=48, depth=2, heads=4, patch=2), source_spec, target_spec)
    last = train(bridge, pairs, 4e-3)
    found = bridge.sample(bridge.encode(pairs(STEPS)[0], generator("draw")), Euler(), 8)
    nearest = torch.cdist(found.flatten(1), centres.flatten(1)).argmin(1)
    error = float((found - centres[labels]).square().mean().sqrt())
    assert nearest.tolist() == labels.tolist()
    assert error < 0.4 * float(centres.std())
    if learned:
        # Rows of one class cannot be told apart: 8 of the 48 are alike, and log 48 = 3.87 is chance.
        assert math.log(8) - 0.05 < last["encoding"] < math.log(8) + 0.3
