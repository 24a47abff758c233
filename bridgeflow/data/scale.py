"""Whether latents are of the scale that a flow is made for, and differ from item to item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bridgeflow.modality import Latent

LEAST_STD, MOST_STD, MOST_MEAN = 0.1, 5.0, 3.0
"""What is still about unit variance and zero mean: pixels in [-1, 1] and edge maps are well within, and raw bytes,
millimetres and logits are not."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of all real values of latents; the spread of what is drawn counts as well."""

    mean: float
    std: float

    @property
    def suits(self) -> bool:
        """Whether a flow is made for it."""
        return LEAST_STD <= self.std <= MOST_STD and abs(self.mean) <= MOST_MEAN

    def __str__(self) -> str:
        return f"mean {_shown(self.mean)} and standard deviation {_shown(self.std)}"


EXPECTED = "about 0 and 1"
FIX = "subtract a constant and divide by one in `encode`, and undo both in `decode`"


def scale_of(latent: Latent) -> Scale:
    """The scale of a batch of latents."""
    real = real_values(latent)
    values = latent.mean[real].double()
    if values.numel() == 0:
        return Scale(0.0, 0.0)
    drawn = 0.0 if latent.std is None else float(latent.std[real].double().square().mean())
    return Scale(float(values.mean()), (float(values.var(correction=0)) + drawn) ** 0.5)


def real_values(latent: Latent) -> Tensor:
    """bool, (B, *shape): where the latent's mask says that it is real; all of it where there is no mask."""
    mask = latent.mask
    if mask is None or mask.dtype != torch.bool:
        return torch.ones_like(latent.mean, dtype=torch.bool)
    if mask.ndim < latent.mean.ndim:
        mask = mask.reshape(*mask.shape, *([1] * (latent.mean.ndim - mask.ndim)))
    try:
        return mask.expand_as(latent.mean)
    except RuntimeError:
        # Whoever looks at the mask says what is wrong with it.
        return torch.ones_like(latent.mean, dtype=torch.bool)


def all_alike(latent: Latent) -> bool:
    """Whether every latent of a batch of several is the same as the first, in values, spread and mask."""
    if len(latent) < 2:
        return False
    if latent.mask is not None and not _rows_alike(latent.mask):
        return False
    held = [latent.mean.where(real_values(latent), torch.zeros_like(latent.mean))]
    return all(map(_rows_alike, held if latent.std is None else [*held, latent.std]))


def items_differ(batch: Mapping[str, Tensor]) -> bool:
    """Whether the items of a collated batch are not all the same."""
    return not all(_rows_alike(tensor) for tensor in batch.values() if tensor.ndim)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rows_alike(tensor: Tensor) -> bool:
    return bool((tensor == tensor[:1]).all()) if len(tensor) else True
