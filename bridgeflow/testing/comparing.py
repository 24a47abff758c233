"""Whether items, batches and latents are the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bridgeflow.data.scale import real_values
from bridgeflow.modality import Latent


def same(a: Any, b: Any) -> bool:
    """Whether two values hold the same, down to the last number of arrays and tensors; not-a-number equals itself."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        alike = isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype
        return alike and torch.allclose(a.double(), b.double(), rtol=0, atol=0, equal_nan=True)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape and a.dtype == b.dtype):
            return False
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if a == b:
        return True
    # A class without an `__eq__` of its own compares by identity, so its contents are looked at.
    return type(a).__eq__ is object.__eq__ and hasattr(a, "__dict__") and same(vars(a), vars(b))


def spread(latent: Latent) -> float:
    """Standard deviation of a latent's finite values, at least 1: what a difference is held against."""
    values = latent.mean[latent.mean.isfinite()].float()
    return max(1.0, float(values.std())) if values.numel() > 1 else 1.0


def worst_difference(a: Latent, b: Latent, real: Tensor | None = None) -> float:
    """Root mean square difference of the row that differs most, over what is real in both; infinite where the shapes
    differ or a value is not finite."""
    if a.mean.shape != b.mean.shape:
        return float("inf")
    real = real_values(a) & real_values(b) if real is None else real
    squares = (a.mean.float() - b.mean.float()).square().where(real, torch.zeros(()))
    each = (squares.flatten(1).sum(1) / real.flatten(1).sum(1).clamp(min=1)).sqrt()
    worst = float(each.nan_to_num(nan=float("inf")).max())
    if a.std is not None and b.std is not None and a.std.shape == b.std.shape:
        worst = max(worst, float((a.std - b.std).abs().where(real, torch.zeros(())).max()))
    return worst
