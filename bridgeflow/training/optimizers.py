"""The optimiser of a training: what it moves, how fast, and its state in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bridgeflow.bridge import Bridge
from bridgeflow.recipe import AdamWSettings, LearningRateSettings
from bridgeflow.training import sharding


def learning_rate_share(step: int, steps: int, settings: LearningRateSettings) -> float:
    """Share of the peak learning rate at an optimiser step counted from 0."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.decay == "constant":
        return 1.0
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(bridge: Bridge, settings: Any) -> torch.optim.Optimizer:
    """The optimiser over the bridge's trainable parameters; vectors are not decayed."""
    trainable = [p for p in bridge.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    if isinstance(settings, AdamWSettings):
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)


def tensors_of(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state as `parameter name:key` -> tensor, sharded as the parameters are."""
    tensors: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value is not None:
                tensors[f"{names[parameter]}:{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def restore(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `tensors_of` gave, from whole tensors."""
    states: dict[str, dict[str, Tensor]] = {}
    for joined, tensor in tensors.items():
        name, _, key = joined.rpartition(":")
        states.setdefault(name, {})[key] = tensor
    for parameter, name in names.items():
        if name in states:
            optimizer.state[parameter] = {
                key: sharding.like(value, parameter) if value.ndim else value.to(parameter.device)
                for key, value in states[name].items()
            }
