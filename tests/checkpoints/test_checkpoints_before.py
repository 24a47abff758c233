"""Recipes, checkpoints and weights that were written before components were said by `name` still load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bridgeflow import registry
from bridgeflow.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bridgeflow.config import layers, recipe
from bridgeflow.config.keys import SamplingSettings
from bridgeflow.flow.guidance import IndicatorGuidanceSettings
from bridgeflow.flow.solver import DormandPrinceSettings, EulerSettings, HeunSettings
from bridgeflow.nn.encoding_loss import CrossContrastSettings, NoEncodingLossSettings

BEFORE = {
    "solver": {"method": "heun", "steps": 4, "tolerance": 1e-4},
    "guidance": {"kind": "indicator", "scale": 3.0, "interval": [0.1, 0.9]},
}
"""The sampling of a checkpoint, with every key that it had."""
TOWER = {"name": "tokens", "width": None, "heads": None, "depth": None, "patch": None}


def test_sampling_is_read_by_the_keys_of_now() -> None:
    found = SamplingSettings.model_validate(BEFORE)
    assert found.solver == HeunSettings(steps=4)
    assert found.guidance == IndicatorGuidanceSettings(scale=3.0, interval=(0.1, 0.9))
    adaptive = SamplingSettings.model_validate({"solver": {"method": "dopri5", "steps": 4, "tolerance": 1e-3}})
    assert adaptive.solver == DormandPrinceSettings(steps=4, tolerance=1e-3)


@pytest.mark.parametrize(("kind", "expected"), [("none", NoEncodingLossSettings()), ("cross", CrossContrastSettings())])
def test_an_encoding_loss_keeps_the_keys_that_it_has(kind: str, expected: object) -> None:
    whole = {"kind": kind, "weight": 1.0, "temperature": 0.07, "logit_scale": "exp", "tower": TOWER}
    resolved = recipe.resolve(layers.merge(layers.read("depth/blocks"), {"encoding": whole}), "before")
    assert resolved.keys.encoding == expected


def test_an_override_of_before_changes_what_is_said_now() -> None:
    resolved = recipe.load("depth/blocks", ["sampling.solver.method=heun", "sampling.guidance.kind=indicator"])
    # The number of steps is no solver's own.
    assert resolved.sampling.solver == HeunSettings(steps=2)
    assert resolved.sampling.guidance.name == "indicator"


def test_the_installed_models_are_of_before_and_sample_as_they_did() -> None:
    folder = registry.shipped("superres/blocks-full")
    assert folder is not None
    checkpoint = open_checkpoint(folder)
    assert checkpoint.meta["sampling"]["solver"]["method"] == "euler"
    assert checkpoint.sampling().solver == EulerSettings(steps=1)
    assert checkpoint.recipe(with_data=False).sampling.solver == EulerSettings(steps=1)


def test_weights_of_the_encoding_loss_have_their_name_of_now(tmp_path: Path) -> None:
    tensors = {"tower.queries": torch.ones(2), "logit_scale": torch.ones(()), "network.tower.x": torch.ones(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = Checkpoint(tmp_path, {}).weights()
    assert set(found) == {"encoding_loss.tower.queries", "encoding_loss.logit_scale", "network.tower.x"}
