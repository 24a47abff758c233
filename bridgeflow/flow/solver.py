"""Solvers of dz/dt = v(z, t) from t = 0 to t = 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bridgeflow.settings import Settings

Velocity = Callable[[Tensor, float], Tensor]
"""(z (B, ...), t) -> dz/dt (B, ...)."""

Observer = Callable[[float, Tensor], None]
"""Called with (t, z) at the start and after every step."""


class Solver(ABC):
    """A method of integration along a grid of times.

    `evaluations` counts the calls of the velocity (NFE) of the last integration.
    """

    evaluations: int = 0

    def integrate(self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None = None) -> Tensor:
        """The state at grid[-1] from the state z (B, ...) at grid[0]. A falling grid integrates backwards."""
        self.evaluations = 0

        def counted(state: Tensor, t: float) -> Tensor:
            self.evaluations += 1
            return velocity(state, t)

        if observer is not None:
            observer(float(grid[0]), z)
        return self._run(counted, z, grid, observer)

    @abstractmethod
    def _run(self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None) -> Tensor: ...


class _FixedStep(Solver):
    """One rule applied to each interval of the grid."""

    def _run(self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None) -> Tensor:
        times = grid.tolist()
        self._start()
        for t, end in pairwise(times):
            z = self._step(velocity, z, t, end - t)
            if observer is not None:
                observer(end, z)
        return z

    def _start(self) -> None:
        """Forgets what an earlier integration left."""

    @abstractmethod
    def _step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor: ...


class Euler(_FixedStep):
    """First order, one evaluation a step."""

    def _step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        return z + h * velocity(z, t)


class Midpoint(_FixedStep):
    """Second order, two evaluations a step."""

    def _step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        return z + h * velocity(z + h / 2 * velocity(z, t), t + h / 2)


class Heun(_FixedStep):
    """Second order, two evaluations a step: the mean of the slopes at both ends."""

    def _step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        first = velocity(z, t)
        second = velocity(z + h * first, t + h)
        return z + h / 2 * (first + second)


class AdamsBashforth2(_FixedStep):
    """Second order, one evaluation a step: the slope is extrapolated from the last two.

    The first step is Euler's; on an uneven grid the weights follow the ratio of the last two steps.
    """

    def _start(self) -> None:
        self._last: tuple[Tensor, float] | None = None

    def _step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        now = velocity(z, t)
        slope = now
        if self._last is not None:
            before, h_before = self._last
            slope = now + h / (2 * h_before) * (now - before)
        self._last = (now, h)
        return z + h * slope


class DormandPrince(Solver):
    """Adaptive, order 5(4), by torchdiffeq; the grid's inner times are those the observer sees."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def _run(self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None) -> Tensor:
        from torchdiffeq import odeint

        chosen = grid if observer is not None else grid[[0, -1]]
        times = chosen.to(device=z.device, dtype=torch.float64 if z.dtype == torch.float64 else torch.float32)
        low, high = sorted((float(times[0]), float(times[-1])))
        states = odeint(
            # The trial that sets the first step may look beyond the end, where the velocity is not defined.
            lambda t, state: velocity(state, min(max(float(t), low), high)),
            z,
            times,
            method="dopri5",
            rtol=self.tolerance,
            atol=self.tolerance,
            # Without it the last step overshoots, and the end is interpolated with a velocity from beyond it.
            options={"step_t": times[-1:]},
        )
        if observer is not None:
            for t, state in zip(chosen.tolist()[1:], states[1:], strict=True):
                observer(t, state)
        return states[-1]


class SolverSettings(Settings):
    """How the flow is integrated when sampling."""

    method: Literal["euler", "midpoint", "heun", "ab2", "dopri5"] = "euler"
    """euler and ab2 evaluate the network once a step, midpoint and heun twice, dopri5 as its tolerance demands."""
    steps: int = Field(default=10, ge=1, le=10_000)
    """Steps from source to target."""
    tolerance: float = Field(default=1e-4, gt=0)
    """Relative and absolute tolerance of dopri5."""

    def build(self) -> Solver:
        """The solver object."""
        if self.method == "dopri5":
            return DormandPrince(self.tolerance)
        methods: dict[str, type[Solver]] = {
            "euler": Euler,
            "midpoint": Midpoint,
            "heun": Heun,
            "ab2": AdamsBashforth2,
        }
        return methods[self.method]()
