"""Where on the path training looks, and where the solver stops: one object for both."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bridgeflow.errors import UsageError
from bridgeflow.runtime.randomness import Randomness, normal, uniform
from bridgeflow.settings import Settings

ENDPOINTS_SHORT = 1e-5
"""How far from 1 the states of the grid `endpoints` stop."""


class TimeSchedule(Settings):
    """Density of t in training, the weight of the loss along it, and the solver's grid.

    `shift` moves training times and grid alike, in this one place.
    """

    density: Literal["uniform", "logit_normal", "power"] = "logit_normal"
    """`logit_normal`: t = sigmoid(N(mean, std^2)); `power`: t = u^power; `uniform`: t = u."""
    mean: float = 0.0
    """Mean of the normal behind `logit_normal`."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of the normal behind `logit_normal`."""
    power: float = Field(default=2.0, gt=0)
    """Exponent of `power`: above 1 looks more at the source (t near 0)."""
    shift: float = Field(default=1.0, gt=0)
    """1 - t becomes shift (1 - t) / (1 + (shift - 1)(1 - t)) (Esser et al., arXiv 2403.03206, equation 23,
    whose time runs from target to source): above 1 spends more of the path near the source."""
    weight: Literal["none", "source", "target", "endpoint"] = "none"
    """Weight of the flow loss along t, of mean 1 for uniform t: `source` is 2 (1 - t), `target` is 2 t, and `endpoint`
    is 3 (1 - t)^2, which turns the velocity's error into that of the z1 it leads to: with `prediction: target` the loss
    is 3 times the plain mean square of what the network gives."""
    grid: Literal["uniform", "density", "endpoints"] = "uniform"
    """Solver steps equal in t, or equal in probability under the density. `endpoints`: N equal steps at which the
    network's time is i / (N - 1), so that it sees both 0 and 1: the sampler of CrossFlow's published code, whose
    network runs a little ahead of the state."""

    @model_validator(mode="after")
    def _endpoints_are_not_shifted(self) -> TimeSchedule:
        if self.grid == "endpoints" and self.shift != 1:
            raise ValueError("grid=endpoints has equal steps: leave shift at 1")
        return self

    def _shifted(self, t: Tensor) -> Tensor:
        # The formula of `shift` in t rather than 1 - t, which would cancel the digits of small times.
        return t if self.shift == 1 else t / (t + self.shift * (1 - t))

    def _quantile(self, u: Tensor) -> Tensor:
        if self.density == "uniform":
            return u
        if self.density == "power":
            return u**self.power
        return torch.sigmoid(self.mean + self.std * math.sqrt(2) * torch.erfinv(2 * u - 1))

    def sample(self, count: int, randomness: Randomness = None) -> Tensor:
        """Training times, shape (count,), float32 in [0, 1], on the CPU."""
        if self.density == "logit_normal":
            return self._shifted(torch.sigmoid(self.mean + self.std * normal((count,), randomness)))
        return self._shifted(self._quantile(uniform((count,), randomness)))

    def loss_weight(self, t: Tensor) -> Tensor:
        """Weight of each row's flow loss, shape of t."""
        if self.weight == "source":
            return 2 * (1 - t)
        if self.weight == "target":
            return 2 * t
        if self.weight == "endpoint":
            return 3 * (1 - t) ** 2
        return torch.ones_like(t)

    def solver_grid(self, steps: int) -> Tensor:
        """steps + 1 rising times from exactly 0 to exactly 1 (1 - 1e-5 for `endpoints`), float64 on the CPU.

        Raises UsageError where the density is so steep that two of them fall together.
        """
        if steps < 1:
            raise ValueError(f"a solver takes at least 1 step, not {steps}")
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        t = self._quantile(u) if self.grid == "density" else u
        t = self._shifted(t)
        t[0], t[-1] = 0.0, 1.0
        if self.grid == "endpoints":
            t = t * (1 - ENDPOINTS_SHORT)
        if not bool((t.diff() > 0).all()):
            raise UsageError(
                f"the density of time is too steep for a solver grid of {steps} steps: set time.grid=uniform, fewer "
                "steps, or a smaller time.std or time.power."
            )
        return t

    def network_time(self, t: Tensor, steps: int) -> Tensor:
        """What the network takes for the time in states of time t (B,), for a solver of that many steps."""
        if self.grid != "endpoints" or steps == 1:
            return t
        return (t / (1 - ENDPOINTS_SHORT) * steps / (steps - 1)).clamp_max(1.0)

    def next_time(self, t: Tensor, steps: int) -> Tensor:
        """The time of the solver's grid that follows states of time t (B,); 1 for the last."""
        # Times come from the grid in float32: half a step is more than their rounding, and less than an interval.
        grid = self.solver_grid(steps).to(t.device, torch.float64)
        between = (grid[1:] + grid[:-1]) / 2
        return grid[1:][torch.searchsorted(between, t.double()).clamp_max(steps - 1)].to(t.dtype)
