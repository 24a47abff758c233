"""What a run would take, told without taking it: the bridge is built and run on torch's meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor, nn

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.recompute import recompute_blocks

MARGIN = 0.9
"""Share of the free memory that a run may be expected to use."""


@dataclass(frozen=True)
class Estimate:
    """Parameters by part of the bridge, and bytes of one training process by what they hold."""

    parameters: dict[str, int]
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def trainable(self) -> int:
        """All parameters of the bridge."""
        return sum(self.parameters.values())

    @property
    def total(self) -> int:
        """Bytes of a training process, without the frozen codecs."""
        return sum(self.memory.values())


def estimate(assembly: Assembly, precision: str) -> Estimate:
    """Counts and memory of training the assembly's recipe at its batch size; the activations are an approximation.

    precision: 'fp32', or 'bf16', in which products and so about half of what is kept for the gradient are half as
    large. Raises NotImplementedError where a plugin's network cannot run on the meta device.
    """
    recipe = assembly.recipe.recipe
    bridge = assembly.sketch_bridge().train()
    parts = {name: _count(module) for name, module in bridge.named_children()}
    loose = sum(p.numel() for p in bridge.parameters(recurse=False))
    parameters = {name.replace("_", " "): count for name, count in parts.items() if count}
    if loose:
        parameters["other"] = loose
    weights = 4 * sum(parameters.values())
    moments = 2 if recipe.optimizer.name == "adamw" else 1
    if recipe.training.gradient_checkpointing:
        recompute_blocks(bridge)
    kept = _saved_bytes(bridge, assembly.source.latent, assembly.target.latent, recipe.training.batch_size)
    memory = {
        "weights": weights,
        "gradients": weights,
        "optimiser": moments * weights,
        "weight average": weights if recipe.training.ema else 0,
        "activations": kept if precision == "fp32" else kept // 2,
    }
    return Estimate(parameters, memory)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _saved_bytes(bridge: Bridge, source: LatentSpec, target: LatentSpec, batch: int) -> int:
    """Bytes that autograd keeps for the backward pass of the training loss of a batch."""
    own = {_storage(parameter) for parameter in bridge.parameters()}
    seen: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            seen[_storage(tensor)] = tensor
        return tensor

    pixels = torch.empty(batch, 3, 8, 8, device="meta") if bridge.sees_observed else None
    latents = [Latent(torch.empty(batch, *spec.shape, device="meta")) for spec in (source, target)]
    latents[1].observed = pixels
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        bridge(*latents)
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def gigabytes(count: int) -> str:
    """'4.2 GB', '0.31 GB'."""
    return f"{count / 1e9:.{1 if count >= 1e9 else 2}f} GB"


def global_batch(batch_size: int, accumulation: int, processes: int) -> str:
    """How the batch of an optimiser step is made up."""
    factors: Sequence[tuple[int, str]] = (
        (batch_size, "pairs"),
        (accumulation, "accumulated"),
        (processes, "processes" if processes != 1 else "process"),
    )
    product = batch_size * accumulation * processes
    return " x ".join(f"{count} {what}" for count, what in factors) + f" = {product:,} a step"
