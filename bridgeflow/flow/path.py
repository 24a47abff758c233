"""The straight path from source to target (CrossFlow, arXiv 2412.15213, section 3.1)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bridgeflow.settings import Settings

SHORTEST = 0.05
"""Least part of the path by which a difference to the target is divided to give a velocity."""


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
        """The velocity that leads from (z_t, t) to z1, the inverse of `target`; what is left of the path counts as
        SHORTEST where it is shorter. Shapes as in `interpolate`."""
        left = (1 - (1 - self.sigma_min) * expand(t, z_t)).clamp_min(SHORTEST)
        return (z1 - (1 - self.sigma_min) * z_t) / left
