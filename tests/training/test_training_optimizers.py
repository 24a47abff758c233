"""What the optimiser decays, by name, and the norm that a gradient is clipped to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bridgeflow import registry
from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.config.optimizers import AdamWSettings, SGDSettings
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dimr import DiMRSettings
from bridgeflow.nn.dimr_blocks import StageSettings
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.encoding_loss import CrossContrastSettings, NoEncodingLossSettings
from bridgeflow.nn.local import LocalSourceSettings
from bridgeflow.nn.narrowing import NarrowingSourceSettings
from bridgeflow.nn.reading_dit import ReadingDiTSettings
from bridgeflow.nn.source import (
    DeterministicSourceSettings,
    DirectSourceSettings,
    NoiseSourceSettings,
    NoisySourceSettings,
    VariationalSourceSettings,
)
from bridgeflow.nn.tower import TimmTowerSettings
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.training.optimizers import build_optimizer, clip_gradient

GRID, SEQUENCE = LatentSpec((2, 8, 8), "grid"), LatentSpec((4, 16), "sequence")
SIZE: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
NETWORKS: dict[str, tuple[Any, set[str]]] = {
    "dit": (DiTSettings(**SIZE, patch=4, second_time=True), {"indicator"}),
    "dit with an embedding": (DiTSettings(**SIZE, patch=4, indicator="embedding"), {"conditioning.indicator.weight"}),
    "reading_dit": (
        ReadingDiTSettings(**SIZE, patch=4, spans=4),
        {"reader.positions", "painter.conditioning.indicator.weight"},
    ),
    "unet": (UNetSettings(channels=(8, 16), blocks=1, heads=2, attention=(1,)), {"conditioning.indicator.weight"}),
    "dimr": (
        DiMRSettings(
            stages=(
                StageSettings(width=16, hidden=16, heads=2, blocks=3, patch=2),
                StageSettings(kind="convnext", width=8, hidden=8, blocks=1),
            )
        ),
        {"stages.0.positions", "stages.1.positions"},
    ),
}
TAIL = {f"tail.norm_conv{where}.{name}" for where in ("", "_in") for name in ("weight", "bias")}
NARROWING: dict[str, Any] = {"depth": 1, "narrowings": 1, "heads": 2, "hidden": 16}
ENCODERS: dict[str, tuple[Any, LatentSpec, set[str]]] = {
    "direct": (DirectSourceSettings(), GRID, set()),
    "local": (LocalSourceSettings(), SEQUENCE, set()),
    "deterministic": (DeterministicSourceSettings(**SIZE, mean_norm="batch"), SEQUENCE, {"encoder.queries"}),
    "noisy": (NoisySourceSettings(**SIZE, patch=4, stem="conv", stem_blocks=1), GRID, {"encoder.queries"}),
    "variational": (VariationalSourceSettings(**SIZE), SEQUENCE, {"encoder.queries"}),
    "narrowing": (NarrowingSourceSettings(**NARROWING), SEQUENCE, set()),
    "narrowing by convolutions": (NarrowingSourceSettings(**NARROWING, tail="conv", compress=8), SEQUENCE, TAIL),
    "noise": (NoiseSourceSettings(patch=4), GRID, set()),
}


def not_decayed(module: nn.Module) -> set[str]:
    """Names of the parameters with two axes or more that keep their size; all of fewer axes are seen to do so."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    decayed, kept = build_optimizer(module, AdamWSettings(weight_decay=0.5)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.5, 0.0)
    assert sorted(names[p] for group in (decayed, kept) for p in group["params"]) == sorted(names.values())
    assert [names[p] for p in decayed["params"] if p.ndim < 2] == []
    return {names[p] for p in kept["params"] if p.ndim >= 2}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_decays_its_matrices_and_kernels_alone(name: str) -> None:
    settings, vectors = NETWORKS[name]
    assert not_decayed(settings.build(GRID)) == vectors


@pytest.mark.parametrize("name", ENCODERS)
def test_a_source_encoder_decays_its_matrices_and_kernels_alone(name: str) -> None:
    settings, source, vectors = ENCODERS[name]
    encoder = settings.build(source, GRID)
    if any(True for _ in encoder.parameters()):
        assert not_decayed(encoder) == vectors
    else:
        assert name in ("direct", "local", "noise")


def test_every_network_and_source_encoder_is_looked_at() -> None:
    # Those of plugins that happen to be installed are theirs to look at.
    own = {plugin.name for plugin in registry.installed("network") if plugin.value.startswith("bridgeflow.")}
    assert own == {settings.name for settings, _ in NETWORKS.values()}
    every = {p.name for p in registry.installed("source_encoder") if p.value.startswith("bridgeflow.")}
    assert every == {settings.name for settings, _, _ in ENCODERS.values()}


@pytest.mark.parametrize("name", ["noise", "noisy"])
def test_a_context_keeps_the_token_that_stands_for_none(name: str) -> None:
    encoder = NoiseSourceSettings(patch=4) if name == "noise" else NoisySourceSettings(**SIZE, patch=4, attend=True)
    encoding = NoEncodingLossSettings() if name == "noise" else CrossContrastSettings()
    settings = BridgeSettings(source_encoder=encoder, encoding=encoding)
    bridge = Bridge(settings, DiTSettings(**SIZE, patch=4), GRID, GRID)
    learned = set() if name == "noise" else {"source_encoder.encoder.queries", "encoding_loss.tower.queries"}
    assert not_decayed(bridge) == {"null_context", "network.indicator"} | learned


def test_an_image_tower_keeps_its_tokens_and_positions() -> None:
    tower = TimmTowerSettings(model="test_vit", size=160, head="conv")
    encoding = CrossContrastSettings(tower=tower)
    settings = BridgeSettings(source_encoder=DeterministicSourceSettings(**SIZE, patch=4), encoding=encoding)
    bridge = Bridge(settings, DiTSettings(**SIZE, patch=4), GRID, GRID)
    assert {name for name in not_decayed(bridge) if name.startswith("encoding_loss.tower.trunk.")} == {
        "encoding_loss.tower.trunk.cls_token",
        "encoding_loss.tower.trunk.pos_embed",
    }


class Foreign(nn.Module):
    """What a plugin's network may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, 8))
        self.registers = nn.Parameter(torch.zeros(1, 4, 8))
        self.gate = nn.Parameter(torch.zeros(8, 1, 1))
        self.bias = nn.Parameter(torch.zeros(8, 1, 1))
        self.to_one = nn.Linear(8, 1)
        self.from_one = nn.Conv2d(1, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2)
        self.recurrent = nn.GRU(8, 8)
        self.norm = nn.RMSNorm((8, 2, 2))
        self.words = nn.Embedding(5, 8)
        self.read_out = nn.Linear(8, 5, bias=False)
        self.read_out.weight = self.words.weight
        self.frozen = nn.Linear(8, 8).requires_grad_(False)


def test_what_a_plugin_calls_weight_is_decayed_whatever_its_shape() -> None:
    module = Foreign()
    frozen = {module.frozen.weight, module.frozen.bias}
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = build_optimizer(module, SGDSettings(weight_decay=0.5)).param_groups
    decayed, kept = ({names[p] for p in group["params"]} for group in groups)
    assert decayed == {
        "to_one.weight", "from_one.weight", "attention.in_proj_weight", "attention.out_proj.weight",
        "recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "words.weight",
    }  # fmt: skip
    assert {"query", "registers", "gate", "bias", "norm.weight"} <= kept
    assert not {names[p] for p in frozen} & (decayed | kept)


@pytest.mark.parametrize("most", [None, 1.0, 100.0])
def test_a_gradient_tells_its_norm_and_is_clipped_where_that_is_asked_for(most: float | None) -> None:
    module = nn.Linear(2, 2)
    assert module.bias is not None
    module.weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    norm = clip_gradient(module.parameters(), most)
    assert float(norm) == pytest.approx(5.0)
    assert float(module.weight.grad.norm()) == pytest.approx(1.0 if most == 1.0 else 5.0, rel=1e-5)
    assert module.bias.grad is None
