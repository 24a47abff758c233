"""The moving average of weights that results are made with."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from bridgeflow.bridge import Bridge
from bridgeflow.modality import Latent
from bridgeflow.nn.standardise import BatchStandardise
from bridgeflow.training import sharding


class WeightAverage:
    """Exponential moving average of a module's parameters; buffers are copied.

    The decay is warmed up as min(decay, (1 + n) / (10 + n)) at the n-th update.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the module's weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        # Shards of the same tensors lie on the same process, so that each moves its own.
        own_weights = [sharding.local(weight) for weight in self.module.parameters()]
        torch._foreach_lerp_(own_weights, [sharding.local(weight) for weight in module.parameters()], 1 - decay)
        for own, new in zip(self.module.buffers(), module.buffers(), strict=True):
            own.copy_(new)


def has_batch_statistics(bridge: Bridge) -> bool:
    """True where a layer keeps running statistics, which fit the raw weights and not their average."""
    return any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in bridge.modules())


@torch.no_grad()
def measure_statistics(bridge: Bridge, sources: Iterable[Latent]) -> None:
    """Measures running statistics anew for the bridge's present weights, from batches of source latents."""
    layers = [layer for layer in bridge.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
        if isinstance(layer, BatchStandardise):
            layer.across_processes = False
    for source in sources:
        bridge.source_encoder(source, sample=False)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
        if isinstance(layer, BatchStandardise):
            layer.across_processes = True
