"""The optimiser of a training: what it moves, how fast, and its state in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bridgeflow.config.keys import LearningRateSettings
from bridgeflow.config.optimizers import OptimizerSettings, Parameters
from bridgeflow.training import sharding

OF_VECTORS = (nn.LayerNorm, nn.RMSNorm, nn.Embedding)
"""Layers whose `weight` is vectors, whatever its shape."""


def learning_rate_share(step: int, steps: int, settings: LearningRateSettings) -> float:
    """Share of the peak learning rate at an optimiser step counted from 0."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.decay == "constant":
        return 1.0
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def is_decayed(owner: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether a parameter, called `name` in the module that owns it, is a matrix or kernel that features are multiplied
    by: what a layer calls its weight. Shapes do not say: tokens, positions and queries are vectors in tensors of any
    number of axes, as embeddings and the gains of norms over grids are."""
    return parameter.ndim >= 2 and "weight" in name and not isinstance(owner, OF_VECTORS)


def build_optimizer(bridge: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser over the bridge's trainable parameters; matrices and kernels alone are decayed."""
    owned = [
        (parameter, is_decayed(owner, name, parameter))
        for owner in bridge.modules()
        for name, parameter in owner.named_parameters(recurse=False)
    ]
    # A matrix may have two owners, such as an embedding that words are read out with too.
    decayed = {parameter for parameter, matrix in owned if matrix}
    trainable = [p for p in bridge.parameters() if p.requires_grad]
    matrices, others = [p for p in trainable if p in decayed], [p for p in trainable if p not in decayed]
    inside = _inside_blocks(bridge)
    return settings.build(Parameters(matrices, others, [p for p in matrices if p in inside]))


def _inside_blocks(bridge: nn.Module) -> set[nn.Parameter]:
    """Parameters of blocks that stand in a row (`nn.ModuleList`), but for those of a `modulation`."""
    return {
        parameter
        for blocks in bridge.modules()
        if isinstance(blocks, nn.ModuleList)
        for name, parameter in blocks.named_parameters()
        if "modulation" not in name
    }


def clip_gradient(parameters: Iterable[nn.Parameter], most: float | None) -> Tensor:
    """The norm of the gradient over all parameters as it was, a scalar; then it is at most `most`, where that is given.

    The device is not waited for. With sharded parameters all processes call it together.
    """
    reached = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in reached if parameter.grad is not None])
    if most is not None:
        nn.utils.clip_grads_with_norm_(reached, most, norm)
    return sharding.whole(norm)


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
