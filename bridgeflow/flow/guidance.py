"""Classifier-free guidance without a null source: the indicator alone changes (CrossFlow, section 3.3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, Protocol, Self

import torch
from pydantic import model_validator
from torch import Tensor

from bridgeflow.settings import Settings

IndicatorVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(z (B, ...), t (B,), null (B,) bool) -> velocity (B, ...)."""


class Guidance(Protocol):
    """Turns a network that knows both indicators into the velocity that the solver follows."""

    def __call__(self, velocity: IndicatorVelocity, z: Tensor, t: float) -> Tensor:
        """The velocity at state z (B, ...) and time t; shape of z."""
        ...


def _times(z: Tensor, t: float) -> Tensor:
    return torch.full((z.shape[0],), t, dtype=torch.float32, device=z.device)


class NoGuidance:
    """The conditional velocity as it is: one forward of B rows."""

    def __call__(self, velocity: IndicatorVelocity, z: Tensor, t: float) -> Tensor:
        null = torch.zeros(z.shape[0], dtype=torch.bool, device=z.device)
        return velocity(z, _times(z, t), null)


class IndicatorGuidance:
    """v = w v(z, conditional) + (1 - w) v(z, null), both from the same state, in one forward of 2B rows.

    Outside `interval` (t from, t to) the conditional velocity is followed alone, at half the cost
    (Kynkaanniemi et al., arXiv 2404.07724).
    """

    def __init__(self, scale: float, interval: tuple[float, float] = (0.0, 1.0)) -> None:
        self.scale = scale
        self.interval = interval

    def __call__(self, velocity: IndicatorVelocity, z: Tensor, t: float) -> Tensor:
        low, high = self.interval
        if self.scale == 1 or not low <= t <= high:
            return NoGuidance()(velocity, z, t)
        rows = z.shape[0]
        null = torch.arange(2 * rows, device=z.device) >= rows
        both = torch.cat([z, z])
        conditional, unconditional = velocity(both, _times(both, t), null).chunk(2)
        return self.scale * conditional + (1 - self.scale) * unconditional


class AutoGuidance:
    """v = w v(z) + (1 - w) v_weak(z): away from what a weaker model of the same kind makes of the same state (Karras et
    al., arXiv 2406.02507). It needs no null rows in training.

    Outside `interval` (t from, t to) the velocity is followed alone.
    """

    def __init__(self, weak: IndicatorVelocity, scale: float, interval: tuple[float, float] = (0.0, 1.0)) -> None:
        self.weak = weak
        self.scale = scale
        self.interval = interval

    def __call__(self, velocity: IndicatorVelocity, z: Tensor, t: float) -> Tensor:
        strong = NoGuidance()(velocity, z, t)
        low, high = self.interval
        if self.scale == 1 or not low <= t <= high:
            return strong
        return self.scale * strong + (1 - self.scale) * NoGuidance()(self.weak, z, t)


class GuidanceSettings(Settings, ABC):
    """Base class of a guidance's settings, found under the entry point group `bridgeflow.guidance`."""

    needs_null_rows: ClassVar[bool] = False
    """Whether it asks for the velocity under the null indicator, which only training with `null_rate` above 0 gives."""

    name: str
    scale: float = 1.0
    """Weight w of the conditional velocity; 1 is no guidance."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Times (from, to) within [0, 1] at which guidance acts."""

    @model_validator(mode="after")
    def _interval_in_order(self) -> Self:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval runs from low to high within [0, 1], not {list(self.interval)}")
        return self

    @property
    def is_active(self) -> bool:
        """Whether it changes the velocity, at the price of more rows of the network."""
        return self.scale != 1

    @abstractmethod
    def build(self) -> Guidance:
        """The guidance."""


class NoGuidanceSettings(GuidanceSettings):
    """The conditional velocity alone."""

    name: Literal["none"] = "none"

    @property
    def is_active(self) -> bool:
        """Never."""
        return False

    def build(self) -> NoGuidance:
        """The guidance."""
        return NoGuidance()


class IndicatorGuidanceSettings(GuidanceSettings):
    """Classifier-free guidance by the two indicator tokens."""

    needs_null_rows = True
    name: Literal["indicator"] = "indicator"

    def build(self) -> IndicatorGuidance:
        """The guidance."""
        return IndicatorGuidance(self.scale, self.interval)
