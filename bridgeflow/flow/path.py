"""Paths from source to target, and the straight one of CrossFlow (arXiv 2412.15213, section 3.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bridgeflow.runtime.randomness import Randomness
from bridgeflow.settings import Settings

LARGEST_WEIGHT = 400.0
"""Most that the squared error of a predicted target counts, `time.weight` included: 1 / 0.05^2, reached at t = 0.95
where that weight is 1."""


def expand(t: Tensor, like: Tensor) -> Tensor:
    """`t` of shape (B,) with trailing axes, so that it broadcasts over `like` (B, ...)."""
    return t.reshape(t.shape[0], *([1] * (like.ndim - 1)))


def _capped(weight: Tensor, left: Tensor) -> Tensor:
    return (weight / left.square().clamp_min(torch.finfo(left.dtype).tiny)).clamp_max(LARGEST_WEIGHT)


class FlowPath(ABC):
    """How a state z_t lies between a source z0 (t = 0) and a target z1 (t = 1), and where it moves.

    States have shape (B, ...), times (B,) within [0, 1].
    """

    @abstractmethod
    def interpolate(self, z0: Tensor, z1: Tensor, t: Tensor, randomness: Randomness = None) -> Tensor:
        """A state z_t of the path between z0 and z1; drawn from `randomness` where the path is noisy."""

    @abstractmethod
    def velocity(self, z0: Tensor, z1: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """What the network learns at z_t: its mean over all pairs that pass there is the velocity of the flow, or the
        drift of its stochastic equation."""

    # What follows holds where the velocity at z_t points at z1, as (z1 - z_t) / (1 - t); other paths replace it.

    def target(self, z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """The z1 that a velocity at (z_t, t) points to."""
        return z_t + (1 - expand(t, z_t)) * velocity

    def velocity_towards(self, z_t: Tensor, z1: Tensor, t: Tensor) -> Tensor:
        """The velocity that leads from (z_t, t) to z1, the inverse of `target`; for t < 1."""
        return (z1 - z_t) / (1 - expand(t, z_t))

    def target_weight(self, t: Tensor, weight: Tensor) -> Tensor:
        """What the squared error of a predicted z1 counts, (B,), where that of the velocity counts `weight` (B,): by
        `velocity_towards` weight / (1 - t)^2, held at LARGEST_WEIGHT near the end, where it would have no bound."""
        return _capped(weight, 1 - t)

    def diffusion(self, t: float) -> float:
        """g(t) of the stochastic equation dz = v dt + g(t) dW that has the path's marginals; 0 where it has none."""
        return 0.0


class PathSettings(Settings, ABC):
    """Base class of a path's settings, found under the entry point group `bridgeflow.paths`."""

    name: str

    @abstractmethod
    def build(self) -> FlowPath:
        """The path."""


class StraightPath(FlowPath):
    """z_t = (1 - (1 - sigma_min) t) z0 + t z1."""

    def __init__(self, sigma_min: float) -> None:
        self.sigma_min = sigma_min

    def interpolate(self, z0: Tensor, z1: Tensor, t: Tensor, randomness: Randomness = None) -> Tensor:
        """Nothing is drawn."""
        t = expand(t, z0)
        return (1 - (1 - self.sigma_min) * t) * z0 + t * z1

    def velocity(self, z0: Tensor, z1: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """dz_t/dt = z1 - (1 - sigma_min) z0, the same at every t."""
        return z1 - (1 - self.sigma_min) * z0

    def target(self, z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        t = expand(t, z_t)
        return (1 - self.sigma_min) * z_t + (1 - (1 - self.sigma_min) * t) * velocity

    def velocity_towards(self, z_t: Tensor, z1: Tensor, t: Tensor) -> Tensor:
        """It is defined for t < 1: at the end nothing of the path is left to divide by, and a solver takes its last
        step from before it (`Solver.integrate`, `open_end`)."""
        return (z1 - (1 - self.sigma_min) * z_t) / (1 - (1 - self.sigma_min) * expand(t, z_t))

    def target_weight(self, t: Tensor, weight: Tensor) -> Tensor:
        """An error e of z1 is an error e / (1 - (1 - sigma_min) t) of the velocity (`velocity_towards`), so this is
        weight / (1 - (1 - sigma_min) t)^2, held at LARGEST_WEIGHT near the end, where it would have no bound."""
        return _capped(weight, 1 - (1 - self.sigma_min) * t)


class StraightPathSettings(PathSettings):
    """A straight line from source to target: z_t = (1 - (1 - sigma_min) t) z0 + t z1."""

    name: Literal["straight"] = "straight"
    sigma_min: float = Field(default=1e-5, ge=0, lt=1)
    """Share of the source that is left at t = 1."""

    def build(self) -> StraightPath:
        """The path."""
        return StraightPath(self.sigma_min)
