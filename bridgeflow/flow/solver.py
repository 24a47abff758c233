"""Solvers of dz/dt = v(z, t) from t = 0 to t = 1."""

from __future__ import annotations

import math
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


OPEN_REST = 0.01
"""How much of the path an adaptive solver leaves to one last step where the velocity is not defined at the end."""


class Solver(ABC):
    """A method of integration along a grid of times.

    `evaluations` counts the calls of the velocity (NFE) of the last integration.
    """

    evaluations: int = 0

    def integrate(
        self,
        velocity: Velocity,
        z: Tensor,
        grid: Tensor,
        observer: Observer | None = None,
        open_end: bool = False,
    ) -> Tensor:
        """The state at grid[-1] from the state z (B, ...) at grid[0]. A falling grid integrates backwards.

        open_end: the velocity is not defined at grid[-1], and is asked for at earlier times alone: a solver that would
        look there takes an Euler step into the end (as Karras et al., arXiv 2206.00364, algorithm 1, at sigma = 0).
        """
        self.evaluations = 0

        def counted(state: Tensor, t: float) -> Tensor:
            self.evaluations += 1
            return velocity(state, t)

        if observer is not None:
            observer(float(grid[0]), z)
        return self._run(counted, z, grid, observer, open_end)

    @abstractmethod
    def _run(
        self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None, open_end: bool
    ) -> Tensor: ...


class _FixedStep(Solver):
    """One rule applied to each interval of the grid."""

    def _run(self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None, open_end: bool) -> Tensor:
        times = grid.tolist()
        self._start()
        for place, (t, end) in enumerate(pairwise(times), start=2):
            step = self._step_to_open_end if open_end and place == len(times) else self._step
            z = step(velocity, z, t, end - t)
            if observer is not None:
                observer(end, z)
        return z

    def _start(self) -> None:
        """Forgets what an earlier integration left."""

    @abstractmethod
    def _step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor: ...

    def _step_to_open_end(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        """A step that does not look at t + h; a rule that does replaces it."""
        return self._step(velocity, z, t, h)


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

    def _step_to_open_end(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        return z + h * velocity(z, t)


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

    def _run(self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None, open_end: bool) -> Tensor:
        from torchdiffeq import odeint

        chosen = (grid if observer is not None else grid[[0, -1]]).clone()
        if open_end:
            last = float(grid[-1] - grid[-2])
            rest = math.copysign(min(OPEN_REST, abs(last) / 2), last)
            chosen[-1] = grid[-1] - rest
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
        end = states[-1]
        if open_end:
            end = end + rest * velocity(end, float(times[-1]))
        if observer is not None:
            for t, state in zip(grid.tolist()[1:], [*states[1:-1], end], strict=True):
                observer(t, state)
        return end


EVALUATIONS = {"euler": 1, "ab2": 1, "midpoint": 2, "heun": 2}
"""Calls of the velocity in a step of the solvers whose steps are given."""


class SolverSettings(Settings):
    """How the flow is integrated when sampling."""

    method: Literal["euler", "midpoint", "heun", "ab2", "dopri5"] = "euler"
    """euler and ab2 evaluate the network once a step, midpoint and heun twice, dopri5 as its tolerance demands."""
    steps: int = Field(default=10, ge=1, le=10_000)
    """Steps from source to target."""
    tolerance: float = Field(default=1e-4, gt=0)
    """Relative and absolute tolerance of dopri5."""

    def evaluations(self, open_end: bool = False) -> int | None:
        """Calls of the velocity in an integration (NFE); None where the solver chooses. `open_end`: see `integrate`."""
        if self.method == "dopri5":
            return None
        per_step = EVALUATIONS[self.method]
        # Heun's last step looks at the end alone beside its start.
        return per_step * self.steps - (open_end and self.method == "heun")

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
