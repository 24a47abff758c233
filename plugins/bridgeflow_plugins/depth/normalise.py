"""Normalisations: depth in metres to values in [-1, 1] and back.

In all of them near is -1 and far is +1, and values rise with depth. Depth outside the range is clipped to it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from bridgeflow.settings import Settings


class Normalisation(Settings, ABC):
    """Base class of the normalisations."""

    metric: ClassVar[bool] = True
    """True where `inverse` gives metres, False where it gives relative depth in [0, 1]."""

    def forward(self, depth: Tensor, valid: Tensor | None = None) -> Tensor:
        """Values in [-1, 1], finite everywhere.

        depth: (B, 1, H, W) in metres, NaN (or anything not above 0) where invalid.
        valid: bool, the same shape; further pixels to leave out.

        Invalid pixels take the mean of the valid values around them, so that no edge arises that the scene
        does not have; a map without any valid pixel is 0.
        """
        measured = torch.isfinite(depth) & (depth > 0)
        if valid is not None:
            measured = measured & valid
        # 1 stands in for what is missing: any positive number keeps logarithms and quotients finite.
        values = self.values(torch.where(measured, depth, torch.ones_like(depth)), measured).clamp(-1.0, 1.0)
        return fill(values, measured)

    @abstractmethod
    def values(self, depth: Tensor, valid: Tensor) -> Tensor:
        """Values of positive depth (B, 1, H, W), before clipping; those of invalid pixels do not count."""

    @abstractmethod
    def inverse(self, values: Tensor) -> Tensor:
        """Depth from values, first clipped to [-1, 1]: metres, or relative depth where `metric` is False."""


class _Ranged(Normalisation):
    near: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """Depth in metres that becomes -1."""
    far: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Depth in metres that becomes +1."""

    @model_validator(mode="after")
    def _near_before_far(self) -> _Ranged:
        if self.near >= self.far:
            raise ValueError(f"near ({self.near:g}) must be less than far ({self.far:g})")
        return self


class LogNormalisation(_Ranged):
    """2 ln(depth / near) / ln(far / near) - 1: equal steps are equal ratios of depth."""

    name: Literal["log"] = "log"

    def values(self, depth: Tensor, valid: Tensor) -> Tensor:
        return 2 * torch.log(depth / self.near) / math.log(self.far / self.near) - 1

    def inverse(self, values: Tensor) -> Tensor:
        return self.near * torch.exp((values.clamp(-1, 1) + 1) / 2 * math.log(self.far / self.near))


class InverseNormalisation(_Ranged):
    """1 - 2 (1/depth - 1/far) / (1/near - 1/far): linear in disparity, finest near the camera."""

    name: Literal["inverse"] = "inverse"

    def values(self, depth: Tensor, valid: Tensor) -> Tensor:
        return 1 - 2 * (1 / depth - 1 / self.far) / (1 / self.near - 1 / self.far)

    def inverse(self, values: Tensor) -> Tensor:
        return 1 / (1 / self.far + (1 - values.clamp(-1, 1)) / 2 * (1 / self.near - 1 / self.far))


class LinearNormalisation(_Ranged):
    """2 (depth - near) / (far - near) - 1."""

    name: Literal["linear"] = "linear"

    def values(self, depth: Tensor, valid: Tensor) -> Tensor:
        return 2 * (depth - self.near) / (self.far - self.near) - 1

    def inverse(self, values: Tensor) -> Tensor:
        return self.near + (values.clamp(-1, 1) + 1) / 2 * (self.far - self.near)


class AffineNormalisation(Normalisation):
    """Affine-invariant depth: 2 (depth - d_low) / (d_high - d_low) - 1, with percentiles of each map.

    Ke et al., "Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation" (Marigold),
    arXiv 2312.02145, section 3. `inverse` gives relative depth in [0, 1], up to a scale and a shift.
    """

    metric: ClassVar[bool] = False
    name: Literal["affine"] = "affine"
    low: float = Field(default=2.0, ge=0, le=100)
    """Percentile of the map's depth that becomes -1."""
    high: float = Field(default=98.0, ge=0, le=100)
    """Percentile of the map's depth that becomes +1."""

    @model_validator(mode="after")
    def _low_before_high(self) -> AffineNormalisation:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        return self

    def values(self, depth: Tensor, valid: Tensor) -> Tensor:
        flat = torch.where(valid, depth, torch.nan).flatten(1)
        low, high = (percentile(flat, share / 100).view(-1, 1, 1, 1) for share in (self.low, self.high))
        # A map of one depth has no spread to divide by, and lies in the middle.
        flat_map = high <= low
        values = 2 * (depth - low) / torch.where(flat_map, 1.0, high - low) - 1
        return torch.where(flat_map, 0.0, values)

    def inverse(self, values: Tensor) -> Tensor:
        return (values.clamp(-1, 1) + 1) / 2


NormalisationSettings = Annotated[
    LogNormalisation | InverseNormalisation | LinearNormalisation | AffineNormalisation,
    Field(discriminator="name"),
]


def percentile(values: Tensor, share: float) -> Tensor:
    """The quantile `share` (0 to 1) of each row (B, N), over what is not NaN, interpolated linearly; (B,).

    Written out because `torch.nanquantile` refuses rows of more than 16 million numbers. A row of nothing but
    NaN gives NaN.
    """
    ordered = values.sort(dim=1).values
    count = (~ordered.isnan()).sum(dim=1, keepdim=True)
    position = (count - 1).clamp(min=0).to(values.dtype) * share
    below = position.floor().long()
    above = torch.minimum(below + 1, (count - 1).clamp(min=0))
    low, high = ordered.gather(1, below), ordered.gather(1, above)
    return (low + (high - low) * (position - below)).squeeze(1)


def fill(values: Tensor, valid: Tensor) -> Tensor:
    """`values` (B, 1, H, W) with the mean of its surroundings wherever a pixel is not `valid`.

    The surroundings are the smallest cell of a pyramid of halvings that has a valid pixel; 0 where none has.
    """
    known = torch.where(valid, values, torch.zeros_like(values))
    if bool(valid.all()) or values.shape[-2:] == (1, 1):
        return known
    weight = valid.to(values.dtype)
    # The ratio of two poolings is a mean over valid pixels alone, in a cell cut by the border too.
    share = functional.avg_pool2d(weight, 2, ceil_mode=True)
    total = functional.avg_pool2d(known, 2, ceil_mode=True)
    coarse = fill(total / share.clamp(min=1e-6), share > 0)
    height, width = values.shape[-2:]
    wide = coarse.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)[..., :height, :width]
    return torch.where(valid, values, wide)
