"""From collated tensors to a latent that is what its modality declares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bridgeflow import registry
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Modality


def latent(
    modality: Modality, given: dict[str, Tensor] | Latent, device: torch.device, observed: bool = False
) -> Latent:
    """The latent of a batch, encoded now from collated tensors or before, on a device and in float32; see `encode`."""
    if not isinstance(given, Latent):
        return encode(modality, given, device, observed)
    moved = given.to(device)
    return _in_float32(moved, moved.observed.float() if observed and moved.observed is not None else None)


def _in_float32(given: Latent, observed: Tensor | None = None) -> Latent:
    conditions = {name: _in_float32(own) for name, own in given.conditions.items()}
    std = None if given.std is None else given.std.float()
    start = None if given.start is None else given.start.float()
    return Latent(given.mean.float(), std, given.mask, observed, conditions, start)


@torch.no_grad()
def encode(modality: Modality, batch: dict[str, Tensor], device: torch.device, observed: bool = False) -> Latent:
    """The latent (B, *shape) of a collated batch on a device, in float32; with what the codec saw, where that is asked
    for.

    Raises BridgeflowError where it is not what the modality declares, or no flow can follow it.
    """
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    latent = modality.encode(batch)
    _check(modality, latent, next((len(tensor) for tensor in batch.values() if tensor.ndim), None))
    return _in_float32(latent, modality.observed(batch) if observed else None)


def _check(modality: Modality, latent: Any, rows: int | None) -> None:
    # Of a source with conditions the fault is that of a part.
    modality, *conditions = modality.parts("").values()
    specs = (modality.latent, modality.piece_latent)
    fault = fault_of_values(latent, *specs, rows=rows) or fault_of_mask(latent, *specs)
    if fault is not None:
        raise BridgeflowError(blamed(modality, fault))
    for condition, own in zip(conditions, latent.conditions.values(), strict=True):
        _check(condition, own, rows)


def fault_of_values(latent: Any, *specs: LatentSpec, rows: int | None = None) -> str | None:
    """What is wrong with the mean and the spread that an `encode` gave, without looking at a number: fault and fix, as
    what follows "`encode` gave". None where they suit one of the specs declared, with `rows` latents."""
    if not isinstance(latent, Latent) or not isinstance(latent.mean, Tensor):
        return f"a {type(latent).__name__}: let it give a bridgeflow.modality.Latent."
    shapes = {tuple(spec.shape) for spec in specs}
    for part, tensor in (("", latent.mean), (" as `std`", latent.std)):
        if tensor is None:
            continue
        if tuple(tensor.shape[1:]) not in shapes:
            made = ", ".join(["B", *map(str, tensor.shape[1:])])
            return f"({made}){part}, but `latent` declares {specs[0]}: make `latent` say what `encode` makes."
        if not tensor.is_floating_point():
            made = str(tensor.dtype).removeprefix("torch.")
            return f"{made}{part}, which no flow can follow: give floating point (float32)."
        if rows is not None and len(tensor) != rows:
            return f"{len(tensor)} latents{part} for {rows} items: give one for each."
    if latent.std is not None and latent.std.shape != latent.mean.shape:
        return f"a `std` of shape {tuple(latent.std.shape)} for {tuple(latent.mean.shape)}: give one for each number."
    return None


def fault_of_mask(latent: Latent, *specs: LatentSpec) -> str | None:
    """The same of the mask of a latent whose values suit one of the specs: its type and its shape."""
    mask = latent.mask
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        made = str(mask.dtype).removeprefix("torch.") if isinstance(mask, Tensor) else type(mask).__name__
        return f"a mask of {made}: give bool, True where the latent is real."
    spec = next(spec for spec in specs if spec.shape == latent.mean.shape[1:])
    wanted = (spec.shape[0],) if spec.layout == "sequence" else (1, *spec.shape[1:])
    if tuple(mask.shape) != (len(latent), *wanted):
        expected = ", ".join(["B", *map(str, wanted)])
        return f"a mask of shape {tuple(mask.shape)}: give ({expected}) for a latent {spec}."
    return None


def blamed(modality: Modality, fault: str) -> str:
    """A fault of `encode`, as `fault_of_values` words it, with the plugin whose fault it is and what to do next."""
    plugin = registry.plugin_of(type(modality))
    if plugin is None:
        return f"`encode` of the modality {type(modality).__name__} gave {fault}"
    tried = f"try it with bridgeflow plugins check {plugin.name}"
    return f"`encode` of {plugin.title} gave {fault.rstrip('.')}, and {tried}."
