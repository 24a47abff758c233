"""MeanFlow: a network learns average velocities, so that one evaluation leads from the start of a flow to its end.

u(z_t, t, r) is the mean of the velocity along the flow from t to r, so that z_r = z_t + (r - t) u(z_t, t, r).
Differentiating (r - t) u by t along the flow gives u = v + (r - t) du/dt (Geng et al., arXiv 2505.13447, the
MeanFlow identity; their time runs the other way), of which the right-hand side is what u is trained towards.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bridgeflow.errors import UsageError
from bridgeflow.flow.losses import flow_loss
from bridgeflow.flow.objective import FlowBatch, Objective, ObjectiveSettings
from bridgeflow.flow.path import expand
from bridgeflow.runtime.randomness import uniform

CONSTANT = 1e-3
"""Added to a row's error where the loss is divided by a power of it."""


class MeanFlow(Objective):
    """The loss that `MeanFlowSettings` describes."""

    def __init__(self, settings: MeanFlowSettings) -> None:
        self.settings = settings

    def loss(self, flow: FlowBatch) -> Tensor:
        """See `Objective.loss`."""
        if len(flow.stage_weights) > 1:
            raise UsageError(
                "objective.name=mean_flow takes networks of one resolution, and this one has "
                f"{len(flow.stage_weights)}: choose network.name=dit or unet."
            )
        settings = self.settings
        t, r = self._times(flow)
        z_t = flow.path.interpolate(flow.z0, flow.z1, t, flow.randomness)
        velocity = self._guided(flow, z_t, t, flow.path.velocity(flow.z0, flow.z1, z_t, t))
        alpha = self._alpha(flow.progress)
        if alpha >= 1:
            # The flow matching that the curriculum begins with, over an interval.
            average, towards = flow.predict(z_t, t, r)[-1], velocity
        elif alpha > 0:
            average, towards = self._half_way(flow, z_t, t, r, velocity, alpha)
        else:
            average, towards = self._derived(flow, z_t, t, r, velocity)
        error = flow_loss(average, towards, flow.mask)
        if alpha > 0:
            error = error / alpha
        weight = flow.time.loss_weight(t) / (error.detach() + CONSTANT) ** settings.adaptive
        return (weight * error).mean()

    def _times(self, flow: FlowBatch) -> tuple[Tensor, Tensor]:
        """t and r, (B,) each, t <= r: two draws in order for a share of the rows, one and the same for the others."""
        count, device = len(flow.z1), flow.z1.device
        first = flow.time.sample(count, flow.randomness)
        second = flow.time.sample(count, flow.randomness)
        apart = uniform((count,), flow.randomness) < self.settings.intervals
        t = torch.where(apart, torch.minimum(first, second), first)
        return t.to(device), torch.where(apart, torch.maximum(first, second), first).to(device)

    def _alpha(self, progress: float) -> float:
        """The share of flow matching in the curriculum: 1, falling to 0 between two shares of the training."""
        if self.settings.curriculum is None:
            return 0.0
        start, end = self.settings.curriculum
        alpha = min(1.0, max(0.0, (end - progress) / max(end - start, 1e-9)))
        return alpha if alpha > self.settings.smallest_alpha else 0.0

    def _guided(self, flow: FlowBatch, z_t: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """The velocity of guidance, w v + (1 - w) u(z_t, t, t | null), for rows that are not null themselves."""
        scale = self.settings.guidance
        if scale == 1:
            return velocity
        with torch.no_grad():
            unconditional = flow.predict(z_t, t, t, torch.ones_like(flow.null))[-1].to(velocity.dtype)
        guided = scale * velocity + (1 - scale) * unconditional
        return torch.where(expand(flow.null, velocity), velocity, guided)

    def _derived(self, flow: FlowBatch, z_t: Tensor, t: Tensor, r: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """u and what it is trained towards, v + (r - t) du/dt, by a derivative in forward mode along the flow."""
        tangent = velocity
        if self.settings.tangent == "predicted":
            with torch.no_grad():
                tangent = flow.predict(z_t, t, t)[-1].to(velocity.dtype)

        def average(z: Tensor, time: Tensor) -> Tensor:
            return flow.predict(z, time, r)[-1]

        directions = (tangent.detach().to(z_t.dtype), torch.ones_like(t))
        with warnings.catch_warnings():
            # torch's own rules of forward mode are compiled in a way that it warns of.
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
            found = torch.func.jvp(average, (z_t, t), directions)
        value, derivative = found[0], found[1]
        return value, velocity + expand(r - t, velocity) * derivative.detach().to(velocity.dtype)

    def _half_way(
        self, flow: FlowBatch, z_t: Tensor, t: Tensor, r: Tensor, velocity: Tensor, alpha: float
    ) -> tuple[Tensor, Tensor]:
        """The same without a derivative: a step of the velocity from t to s = alpha r + (1 - alpha) t, and the average
        that the network itself gives from there (arXiv 2510.20771)."""
        s = alpha * r + (1 - alpha) * t
        with torch.no_grad():
            z_s = z_t + expand(s - t, z_t) * velocity
            rest = flow.predict(z_s, s, r)[-1].to(velocity.dtype)
        return flow.predict(z_t, t, r)[-1], alpha * velocity + (1 - alpha) * rest


class MeanFlowSettings(ObjectiveSettings):
    """Average velocities: results in one evaluation of the network, or in few."""

    second_time = True
    name: Literal["mean_flow"] = "mean_flow"
    intervals: float = Field(default=0.5, ge=0, le=1)
    """Share of rows that learn the average over an interval; the others learn the velocity at one time."""
    tangent: Literal["conditional", "predicted"] = "predicted"
    """Along what the average is differentiated: the velocity of the pair at hand (arXiv 2505.13447), or the one that
    the network gives (arXiv 2512.02012), which varies less."""
    guidance: float = Field(default=1.0, ge=0)
    """Scale w of classifier-free guidance that is trained in, so that sampling needs no second forward; 1 is none."""
    adaptive: float = Field(default=1.0, ge=0)
    """Power p of the error by which each row's loss is divided: 0 is the squared error, 1 is near its logarithm. In
    latents of few values, where errors differ from row to row, powers above 0 favour one of several targets."""
    curriculum: tuple[float, float] | None = None
    """Shares of the training (from, to) along which the loss goes from flow matching to MeanFlow
    (arXiv 2510.20771); None: MeanFlow from the beginning."""
    smallest_alpha: float = Field(default=0.05, ge=0, lt=1)
    """Share of flow matching under which the curriculum takes the derivative instead of a step."""

    def build(self) -> MeanFlow:
        """The objective."""
        return MeanFlow(self)
