"""The straight path from source to target (CrossFlow, arXiv 2412.15213, section 3.1)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from bridgeflow.settings import Settings

LARGEST_WEIGHT = 400.0
"""Most that the squared error of a predicted target counts: that of the velocity at 5 % of the path before its end."""


def expand(t: Tensor, like: Tensor) -> Tensor:
    """`t` of shape (B,) with trailing axes, so that it broadcasts over `like` (B, ...)."""
    return t.reshape(t.shape[0], *([1] * (like.ndim - 1)))


class Path(Settings):
    """z_t = (1 - (1 - sigma_min) t) z0 + t z1, from the source at t = 0 to the target at t = 1."""

    sigma_min: float = Field(default=1e-5, ge=0, lt=1)
    """Share of the source that is left at t = 1."""

    def interpolate(self, z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
        """z_t for z0, z1 of shape (B, ...) and t of shape (B,) in [0, 1]."""
        t = expand(t, z0)
        return (1 - (1 - self.sigma_min) * t) * z0 + t * z1

    def velocity(self, z0: Tensor, z1: Tensor) -> Tensor:
        """dz_t/dt = z1 - (1 - sigma_min) z0, the same at every t; shape (B, ...)."""
        return z1 - (1 - self.sigma_min) * z0

    def target(self, z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """The z1 that a velocity at (z_t, t) points to; shapes as in `interpolate`."""
        t = expand(t, z_t)
        return (1 - self.sigma_min) * z_t + (1 - (1 - self.sigma_min) * t) * velocity

    def velocity_towards(self, z_t: Tensor, z1: Tensor, t: Tensor) -> Tensor:
        """The velocity that leads from (z_t, t) to z1, the inverse of `target`. Shapes as in `interpolate`.

        It is defined for t < 1: at the end nothing of the path is left to divide by, and a solver takes its last step
        from before it (`Solver.integrate`, `open_end`)."""
        return (z1 - (1 - self.sigma_min) * z_t) / (1 - (1 - self.sigma_min) * expand(t, z_t))

    def target_weight(self, t: Tensor, weight: Tensor) -> Tensor:
        """What the squared error of a predicted z1 counts, (B,), where that of the velocity counts `weight` (B,).

        An error e of z1 is an error e / (1 - (1 - sigma_min) t) of the velocity (`velocity_towards`), so this is
        weight / (1 - (1 - sigma_min) t)^2, held at LARGEST_WEIGHT near the end, where it would have no bound.
        """
        left = 1 - (1 - self.sigma_min) * t
        return (weight / left.square().clamp_min(torch.finfo(t.dtype).tiny)).clamp_max(LARGEST_WEIGHT)
