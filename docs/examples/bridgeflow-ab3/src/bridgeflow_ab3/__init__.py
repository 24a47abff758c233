"""Adams and Bashforth's solver of third order, on grids of any spacing.

One evaluation a step, as Euler's: the slope over a step is that of the parabola through the last three velocities
(Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section III.5). The first step is the midpoint
rule's, which costs an evaluation more, and the second is that of second order.
"""

from __future__ import annotations

from typing import Literal

from bridgeflow.flow.solver import FixedStepSolver, SolverSettings, Velocity
from torch import Tensor


class AdamsBashforth3(FixedStepSolver):
    """See the module."""

    def start(self) -> None:
        """Forgets the velocities of an earlier integration."""
        self._before: list[tuple[float, Tensor]] = []

    def step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        """One step; the velocity is never asked for at its end."""
        now = velocity(z, t)
        change = self._change(velocity, z, t, h, now)
        self._before = [(t, now), *self._before[:1]]
        return z + change

    def _change(self, velocity: Velocity, z: Tensor, t: float, h: float, now: Tensor) -> Tensor:
        if not self._before:
            return h * velocity(z + h / 2 * now, t + h / 2)
        (t1, v1), *older = self._before
        a = t - t1
        if not older:
            return h * now + h * h / (2 * a) * (now - v1)
        t2, v2 = older[0]
        b = t - t2
        # Integrals over the step of the parabolas that are 1 at one of the times t, t - a, t - b and 0 at the others.
        third, half = h**3 / 3, h**2 / 2
        w0 = (third + (a + b) * half + a * b * h) / (a * b)
        w1 = -(third + b * half) / (a * (b - a))
        w2 = (third + a * half) / (b * (b - a))
        return w0 * now + w1 * v1 + w2 * v2


class AdamsBashforth3Settings(SolverSettings):
    """Third order: the network is evaluated once a step, and once more in the first."""

    name: Literal["ab3"] = "ab3"

    def build(self) -> AdamsBashforth3:
        """The solver."""
        return AdamsBashforth3()

    def evaluations(self, open_end: bool = False) -> int | None:
        """The first step takes two."""
        return self.steps + 1
