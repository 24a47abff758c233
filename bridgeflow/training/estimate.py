"""What a run would take, estimated without taking it: the bridge is built and run on torch's meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.recompute import recompute_blocks

HALF_TYPES = 0.6
"""Share that remains of what is kept for the gradient where products run in bfloat16."""


@dataclass(frozen=True)
class Estimate:
    """Parameters by part of the bridge, and bytes of one training process by what they hold."""

    parameters: dict[str, int]
    memory: dict[str, int] = field(default_factory=dict)
    recomputable: bool = False
    """Whether the network has blocks for training.gradient_checkpointing."""

    @property
    def trainable(self) -> int:
        """All parameters of the bridge."""
        return sum(self.parameters.values())

    @property
    def total(self) -> int:
        """Bytes of a training process, without the frozen codecs."""
        return sum(self.memory.values())

    def over(self, processes: int) -> Estimate:
        """That of a process with a shard of everything that is kept for each weight."""
        memory = {part: own if part == "activations" else own // processes for part, own in self.memory.items()}
        return replace(self, memory=memory)


def estimate(assembly: Assembly, precision: str, device: torch.device | str = "cpu") -> Estimate | None:
    """Counts and memory of training the assembly's recipe at its batch size on a device, with no codec fitted.

    precision: 'fp32', or 'bf16', in which products and so most of what is kept for the gradient are half as large.
    Activations are what autograd keeps, without what a backward pass holds for a moment; attention keeps its weights on
    a CPU, and not on a GPU, whose kernel computes them again. None where a plugin's network cannot run on the meta
    device; raises what is wrong with a recipe.
    """
    recipe = assembly.recipe
    latents = assembly.source.latent, assembly.target.latent
    conditions = {name: own.latent for name, own in assembly.source.conditions.items()}
    try:
        bridge = assembly.sketch_bridge().train()
        recomputable = recompute_blocks(bridge.network) > 0
        recompute_blocks(bridge, recipe.training.gradient_checkpointing)
        with _FusedAttention() if torch.device(device).type == "cuda" else contextlib.nullcontext():
            kept = _saved_bytes(bridge, *latents, conditions, recipe.training.batch_size)
    except RuntimeError as error:
        # A network that looks at its numbers cannot run without any; other faults are the recipe's.
        if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
            return None
        raise
    parts = {name: _count(module) for name, module in bridge.named_children()}
    loose = sum(p.numel() for p in bridge.parameters(recurse=False))
    parameters = {name.replace("_", " "): count for name, count in parts.items() if count}
    if loose:
        parameters["other"] = loose
    weights = 4 * sum(parameters.values())
    memory = {
        "weights": weights,
        "gradients": weights,
        "optimiser": recipe.keys.optimizer.states * weights,
        "weight average": weights if recipe.training.ema else 0,
        "activations": kept if precision == "fp32" else int(HALF_TYPES * kept),
    }
    return Estimate(parameters, memory, recomputable)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _unread(source: LatentSpec, batch: int) -> Latent:
    """A latent of no numbers. Texts differ in length, and attention that is masked keeps more."""
    mask = torch.ones(batch, source.shape[0], dtype=torch.bool, device="meta")
    return Latent(torch.empty(batch, *source.shape, device="meta"), mask=mask if source.layout == "sequence" else None)


def _saved_bytes(
    bridge: Bridge, source: LatentSpec, target: LatentSpec, conditions: Mapping[str, LatentSpec], batch: int
) -> int:
    """Bytes that autograd keeps for the backward pass of the training loss of a batch."""
    own = {_storage(parameter) for parameter in bridge.parameters()}
    seen: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            seen[_storage(tensor)] = tensor
        return tensor

    pixels = torch.empty(batch, 3, 8, 8, device="meta") if bridge.needs_target_pixels else None
    latents = [_unread(source, batch), Latent(torch.empty(batch, *target.shape, device="meta"), observed=pixels)]
    latents[0].conditions = {name: _unread(spec, batch) for name, spec in conditions.items()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        bridge(*latents)
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps its arguments and its result alone, as the kernels of a GPU do; the meta device knows only
    the form that keeps the weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


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
