"""A Brownian bridge between source and target, and the solver of its stochastic equation.

z_t = (1 - t) z0 + t z1 + s sqrt(t (1 - t)) eps (Albergo et al., arXiv 2303.08797; Zhou et al., arXiv 2309.16948). Given
z1, the bridge follows dz = (z1 - z_t) / (1 - t) dt + s dW, so with the mean of z1 given z_t as its drift, which is what
a network learns, the equation has the path's marginals. One source then leads to many targets, as its noise falls.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from bridgeflow.flow.path import FlowPath, PathSettings, expand
from bridgeflow.flow.solver import FixedStepSolver, SolverSettings, Velocity
from bridgeflow.runtime.randomness import Randomness, normal
from pydantic import Field
from torch import Tensor


class BrownianPath(FlowPath):
    """See the module."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def interpolate(self, z0: Tensor, z1: Tensor, t: Tensor, randomness: Randomness = None) -> Tensor:
        """The noise is drawn from `randomness`."""
        t = expand(t, z0)
        return (1 - t) * z0 + t * z1 + self.noise * (t * (1 - t)).sqrt() * normal(z0.shape, randomness, z0)

    def velocity(self, z0: Tensor, z1: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """The drift of the bridge to this z1. Its variance has no bound near t = 1: train with `prediction: target`."""
        return self.velocity_towards(z_t, z1, t)

    def diffusion(self, t: float) -> float:
        """s at every t."""
        return self.noise


class BrownianPathSettings(PathSettings):
    """A straight line with the noise of a Brownian bridge around it."""

    name: Literal["brownian"] = "brownian"
    noise: float = Field(default=0.5, gt=0)
    """s: the standard deviation of z_t in the middle of the path is s / 2."""

    def build(self) -> BrownianPath:
        """The path."""
        return BrownianPath(self.noise)


class EulerMaruyama(FixedStepSolver):
    """z + h v(z, t) + sqrt(h) g(t) eps; the step into an open end has no noise, so that it lands on the prediction."""

    def step(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        """One step."""
        drifted = z + h * velocity(z, t)
        return drifted if self.noise is None else drifted + math.sqrt(abs(h)) * self.noise(z, t)

    def step_to_open_end(self, velocity: Velocity, z: Tensor, t: float, h: float) -> Tensor:
        """The last step."""
        return z + h * velocity(z, t)


class EulerMaruyamaSettings(SolverSettings):
    """The stochastic equation of a noisy path, in steps of first order."""

    stochastic: ClassVar[bool] = True
    name: Literal["euler_maruyama"] = "euler_maruyama"

    def build(self) -> EulerMaruyama:
        """The solver."""
        return EulerMaruyama()
