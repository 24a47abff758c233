"""From collated tensors to a latent that is what its modality declares."""

from __future__ import annotations

import torch
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, Modality


def latent(
    modality: Modality, given: dict[str, Tensor] | Latent, device: torch.device, observed: bool = False
) -> Latent:
    """The latent of a batch, encoded now from collated tensors or before, on a device and in float32; see `encode`."""
    if not isinstance(given, Latent):
        return encode(modality, given, device, observed)
    moved = given.to(device)
    seen = moved.observed.float() if observed and moved.observed is not None else None
    return Latent(moved.mean.float(), None if moved.std is None else moved.std.float(), moved.mask, seen)


@torch.no_grad()
def encode(modality: Modality, batch: dict[str, Tensor], device: torch.device, observed: bool = False) -> Latent:
    """The latent (B, *shape) of a collated batch on a device, in float32; with what the codec saw, where that is asked
    for.

    Raises BridgeflowError where its shape is not the one that the modality declares.
    """
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    latent = modality.encode(batch)
    if latent.mean.shape[1:] not in (modality.latent.shape, modality.piece_latent.shape):
        raise BridgeflowError(
            f"the modality {type(modality).__name__} declares a latent {modality.latent}, but its `encode` gave "
            f"{tuple(latent.mean.shape)} with the batch in front: mend `encode` or `latent`, and try it with "
            "bridgeflow plugins check."
        )
    std = None if latent.std is None else latent.std.float()
    return Latent(latent.mean.float(), std, latent.mask, modality.observed(batch) if observed else None)
