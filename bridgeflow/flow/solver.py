"""Solvers of dz/dt = v(z, t) from t = 0 to t = 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bridgeflow.settings import Settings

Velocity = Callable[[Tensor, float], Tensor]
"""(z (B, ...), t) -> dz/dt (B, ...)."""

Noise = Callable[[Tensor, float], Tensor]
"""(z (B, ...), t) -> g(t) times standard normal numbers (B, ...): the noise of a path's stochastic equation."""

Observer = Callable[[float, Tensor], None]
"""Called with (t, z) at the start and after every step."""


OPEN_END_STEP = 0.01
"""Length in time of an adaptive solver's last step where the velocity is not defined at t = 1: a step of Euler, whose
error goes with the square of its length, from a time at which nothing is divided by less than this."""


class Solver(ABC):
    """A method of integration along a grid of times.

    `evaluations` counts the calls of the velocity (NFE) of the last integration.
    """

    evaluations: int = 0
    noise: Noise | None = None
    network_runs_ahead: ClassVar[bool] = False
    """Whether the grid `endpoints` gives the network a later time than the state's, as CrossFlow's own sampler does."""
    follows_averages: ClassVar[bool] = False
    """Whether a step is one evaluation whose velocity is followed to the next time of the grid: of a network that knows
    average velocities it then takes the average over the step, and one step is enough."""

    def integrate(
        self,
        velocity: Velocity,
        z: Tensor,
        grid: Tensor,
        observer: Observer | None = None,
        open_end: bool = False,
        noise: Noise | None = None,
    ) -> Tensor:
        """The state at grid[-1] from the state z (B, ...) at grid[0]. A falling grid integrates backwards.

        open_end: the velocity is not defined at grid[-1], and is asked for at earlier times alone: a solver that would
        look there takes an Euler step into the end (as Karras et al., arXiv 2206.00364, algorithm 1, at sigma = 0).
        noise: that of the path's stochastic equation, where it has one; solvers of the ordinary equation leave it out.
        """
        self.evaluations = 0

        def counted(state: Tensor, t: float) -> Tensor:
            self.evaluations += 1
            return velocity(state, t)

        if observer is not None:
            observer(float(grid[0]), z)
        self.noise = noise
        return self._run(counted, z, grid, observer, open_end)

    @abstractmethod
    def _run(
        self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None, open_end: bool
    ) -> Tensor: ...


class FixedStepSolver(Solver):
    """One rule applied to each interval of the grid: what most solvers inherit from."""

    def _run(self, velocity: Velocity, z: Tensor, grid: Tensor, observer: Observer | None, open_end: bool) -> Tensor:
        times = grid.tolist()
        self.start()
        last = len(times) - 2
        for interval, (t, end) in enumerate(pairwise(times)):
            step = self.step_to_open_end if open_end and interval == last else self.step
            z = step(velocity, z, t, end - t)
            if observer is not None:
                observer(end, z)
        return z

    def start(self) -> None:
        """Forgets what an earlier integration left."""

    @abstractmethod
    def step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        """The state at t + h from the state z (B, ...) at t."""

    def step_to_open_end(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        """A step that does not look at t + h; a rule that does replaces it."""
        return self.step(velocity, z, t, h)


class Euler(FixedStepSolver):
    """First order, one evaluation a step."""

    network_runs_ahead = True
    follows_averages = True

    def step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        return z + h * velocity(z, t)


class Midpoint(FixedStepSolver):
    """Second order, two evaluations a step."""

    def step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        return z + h * velocity(z + h / 2 * velocity(z, t), t + h / 2)


class Heun(FixedStepSolver):
    """Second order, two evaluations a step: the mean of the slopes at both ends."""

    def step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        first = velocity(z, t)
        second = velocity(z + h * first, t + h)
        return z + h / 2 * (first + second)

    def step_to_open_end(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        return z + h * velocity(z, t)


class AdamsBashforth2(FixedStepSolver):
    """Second order, one evaluation a step: the slope is extrapolated from the last two.

    The first step is Euler's; on an uneven grid the weights follow the ratio of the last two steps.
    """

    def start(self) -> None:
        self._last: tuple[Tensor, float] | None = None

    def step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
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
            rest = math.copysign(min(OPEN_END_STEP, abs(last) / 2), last)
            chosen[-1] = grid[-1] - rest
        times = chosen.to(device=z.device, dtype=torch.float64 if z.dtype == torch.float64 else torch.float32)
        low, high = sorted((float(times[0]), float(times[-1])))
        # The size of a step is chosen for the whole batch, so a row's result depends a little on the others.
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
        end: Tensor = states[-1]
        if open_end:
            end = end + rest * velocity(end, float(times[-1]))
        if observer is not None:
            for t, state in zip(grid.tolist()[1:], [*states[1:-1], end], strict=True):
                observer(t, state)
        return end


class SolverSettings(Settings, ABC):
    """Base class of a solver's settings, found under the entry point group `bridgeflow.solvers`."""

    evaluations_per_step: ClassVar[int | None] = 1
    """Calls of the velocity in a step; None where the solver chooses its steps."""
    stochastic: ClassVar[bool] = False
    """Whether it solves the path's stochastic equation, and so draws."""

    name: str
    steps: int = Field(default=10, ge=1, le=10_000)
    """Steps from source to target."""

    @abstractmethod
    def build(self) -> Solver:
        """The solver."""

    def evaluations(self, open_end: bool = False) -> int | None:
        """Calls of the velocity in an integration (NFE); None where the solver chooses. `open_end`: see `integrate`."""
        return None if self.evaluations_per_step is None else self.evaluations_per_step * self.steps


class EulerSettings(SolverSettings):
    """First order: the network is evaluated once a step."""

    name: Literal["euler"] = "euler"

    def build(self) -> Euler:
        """The solver."""
        return Euler()


class MidpointSettings(SolverSettings):
    """Second order: the network is evaluated twice a step, at its start and in its middle."""

    evaluations_per_step = 2
    name: Literal["midpoint"] = "midpoint"

    def build(self) -> Midpoint:
        """The solver."""
        return Midpoint()


class HeunSettings(SolverSettings):
    """Second order: the network is evaluated twice a step, at both ends."""

    evaluations_per_step = 2
    name: Literal["heun"] = "heun"

    def build(self) -> Heun:
        """The solver."""
        return Heun()

    def evaluations(self, open_end: bool = False) -> int | None:
        """An open end is not looked at, which saves the last evaluation."""
        return 2 * self.steps - open_end


class AdamsBashforth2Settings(SolverSettings):
    """Second order: the network is evaluated once a step, whose slope is extrapolated from the last two."""

    name: Literal["ab2"] = "ab2"

    def build(self) -> AdamsBashforth2:
        """The solver."""
        return AdamsBashforth2()


class DormandPrinceSettings(SolverSettings):
    """Order 5 with steps of its own choosing, as many as its tolerance demands."""

    evaluations_per_step = None
    name: Literal["dopri5"] = "dopri5"
    tolerance: float = Field(default=1e-4, gt=0)
    """Relative and absolute tolerance."""

    def build(self) -> DormandPrince:
        """The solver."""
        return DormandPrince(self.tolerance)
