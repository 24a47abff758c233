"""Guidance with a velocity whose two answers are known."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from bridgeflow.flow.guidance import (
    AutoGuidance,
    IndicatorGuidance,
    IndicatorGuidanceSettings,
    NoGuidance,
    NoGuidanceSettings,
)
from bridgeflow.flow.solver import Euler


class KnownVelocity:
    """2 z + t under the conditional indicator, -z under the null one; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, z: Tensor, t: Tensor, null: Tensor) -> Tensor:
        self.calls.append((z, t, null))
        return torch.where(null[:, None], -z, 2 * z + t[:, None].to(z.dtype))


Z = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]])


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_guidance_leads_away_from_the_null_velocity(scale: float) -> None:
    velocity = KnownVelocity()
    guided = IndicatorGuidance(scale)(velocity, Z, 0.25)
    torch.testing.assert_close(guided, scale * (2 * Z + 0.25) + (1 - scale) * -Z)


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.5])
def test_autoguidance_leads_away_from_the_weaker_velocity(scale: float) -> None:
    strong, weak = KnownVelocity(), KnownVelocity()
    guidance = AutoGuidance(lambda z, t, null: weak(3 * z, t, null), scale, (0.0, 0.5))
    torch.testing.assert_close(guidance(strong, Z, 0.25), scale * (2 * Z + 0.25) + (1 - scale) * (6 * Z + 0.25))
    # Neither is asked for the null velocity, and the weaker one only where it counts.
    assert [null.tolist() for _, _, null in strong.calls + weak.calls] == [[False] * 3] * (1 if scale == 1 else 2)
    torch.testing.assert_close(guidance(strong, Z, 0.75), 2 * Z + 0.75)


def test_both_indicators_go_through_the_network_at_once() -> None:
    velocity = KnownVelocity()
    IndicatorGuidance(3.0)(velocity, Z, 0.25)
    ((z, t, null),) = velocity.calls
    torch.testing.assert_close(z, torch.cat([Z, Z]), rtol=0, atol=0)
    assert null.tolist() == [False] * 3 + [True] * 3
    assert t.tolist() == [0.25] * 6
    assert t.dtype == torch.float32


@pytest.mark.parametrize("guidance", [NoGuidance(), IndicatorGuidance(1.0), NoGuidanceSettings(scale=5.0).build()])
def test_without_guidance_the_conditional_velocity_is_asked_alone(guidance: NoGuidance) -> None:
    velocity = KnownVelocity()
    torch.testing.assert_close(guidance(velocity, Z, 0.5), 2 * Z + 0.5)
    ((z, t, null),) = velocity.calls
    assert z.shape == Z.shape
    assert t.tolist() == [0.5] * 3
    assert null.tolist() == [False] * 3


def test_outside_its_interval_guidance_costs_half() -> None:
    velocity = KnownVelocity()
    guidance = IndicatorGuidanceSettings(scale=2.0, interval=(0.25, 0.5)).build()
    grid = torch.linspace(0, 1, 5)
    solver = Euler()
    solver.integrate(lambda z, t: guidance(velocity, z, t), Z, grid)
    assert solver.evaluations == 4
    assert [len(null) for _, _, null in velocity.calls] == [3, 6, 6, 3]


def test_the_interval_decides_what_is_followed() -> None:
    guidance = IndicatorGuidance(2.0, (0.25, 0.5))
    torch.testing.assert_close(guidance(KnownVelocity(), Z, 0.2), 2 * Z + 0.2)
    torch.testing.assert_close(guidance(KnownVelocity(), Z, 0.4), 2 * (2 * Z + 0.4) + Z)


@pytest.mark.parametrize("interval", [(0.5, 0.4), (-0.1, 0.5), (0.0, 1.5)])
def test_an_interval_out_of_order_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="interval runs from low to high"):
        IndicatorGuidanceSettings(interval=interval)
