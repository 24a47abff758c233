"""Objectives: the training loss of a flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bridgeflow.flow.losses import staged_flow_loss
from bridgeflow.flow.path import FlowPath
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.runtime.randomness import Randomness
from bridgeflow.settings import Settings

Predict = Callable[..., Sequence[Tensor]]
"""predict(z, t, r=None, null=None): what the network gives for states z (B, ...) at times t (B,), at each of its
resolutions, the last of them that of the latent. r (B,) is the second time, for objectives that set `second_time`.
null, bool (B,), is which rows are under the null indicator; None: those that the batch has it for."""


@dataclass(frozen=True)
class FlowBatch:
    """What an objective is computed from: B coupled pairs and the network."""

    z0: Tensor
    """(B, ...), where each flow starts."""
    z1: Tensor
    """(B, ...), where it ends, after the coupling."""
    mask: Tensor | None
    """Which values of z1 are real, see `masked_mean`."""
    predict: Predict
    prediction: Literal["velocity", "target"]
    """What the network gives."""
    path: FlowPath
    time: TimeSchedule
    stage_weights: Sequence[float]
    """Weight of each of the network's resolutions."""
    null: Tensor
    """Bool (B,), which rows learn the unconditional velocity."""
    progress: float = 0.0
    """Share of the training that is done, from 0 to 1, for what changes along it."""
    randomness: Randomness = None
    """Of whatever the objective draws; one generator, one a row, or torch's own."""


class Objective(ABC):
    """The training loss of a flow."""

    @abstractmethod
    def loss(self, flow: FlowBatch) -> Tensor:
        """The loss of a batch, a scalar that gradients flow through."""


class ObjectiveSettings(Settings, ABC):
    """Base class of an objective's settings, found under the entry point group `bridgeflow.objectives`."""

    second_time: ClassVar[bool] = False
    """Whether it teaches the average velocity from a time t to a second time r: the network then takes both, and a
    solver that steps by one evaluation asks for the average over its step."""

    name: str

    @abstractmethod
    def build(self) -> Objective:
        """The objective."""


class FlowMatching(Objective):
    """The mean squared error of the velocity at a random time (CrossFlow, equation 1), or of the predicted target with
    the weight that makes it the same."""

    def loss(self, flow: FlowBatch) -> Tensor:
        """A mean over real values, then over rows; each row counts by the weight of its time."""
        t = flow.time.sample(len(flow.z1), flow.randomness).to(flow.z1.device)
        z_t = flow.path.interpolate(flow.z0, flow.z1, t, flow.randomness)
        weight = flow.time.loss_weight(t)
        if flow.prediction == "target":
            truth, weight = flow.z1, flow.path.target_weight(t, weight)
        else:
            truth = flow.path.velocity(flow.z0, flow.z1, z_t, t)
        return (weight * staged_flow_loss(flow.predict(z_t, t), truth, flow.stage_weights, flow.mask)).mean()


class FlowMatchingSettings(ObjectiveSettings):
    """Conditional flow matching: the squared error of the velocity at one random time of each pair."""

    name: Literal["flow_matching"] = "flow_matching"

    def build(self) -> FlowMatching:
        """The objective."""
        return FlowMatching()
