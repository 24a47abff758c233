"""Classifier-free guidance without a null source: the indicator alone changes (CrossFlow, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

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


class GuidanceSettings(Settings):
    """How sampling is guided."""

    kind: Literal["none", "indicator"] = "none"
    """`none`: the conditional velocity alone; `indicator`: classifier-free guidance by the two indicator tokens."""
    scale: float = 1.0
    """Weight w of the conditional velocity; 1 is no guidance."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Times (from, to) within [0, 1] at which guidance acts."""

    @model_validator(mode="after")
    def _interval_in_order(self) -> GuidanceSettings:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval runs from low to high within [0, 1], not {list(self.interval)}")
        return self

    def build(self, weak: IndicatorVelocity | None = None) -> Guidance:
        """The guidance object; by a weaker model where one is given."""
        if weak is not None:
            return AutoGuidance(weak, self.scale, self.interval)
        if self.kind == "none":
            return NoGuidance()
        return IndicatorGuidance(self.scale, self.interval)
