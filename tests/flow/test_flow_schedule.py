"""The time schedule: densities against closed forms, and one shift for training and solver."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from bridgeflow.errors import UsageError
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.runtime.randomness import generator

DENSITIES = [
    {"density": "uniform"},
    {"density": "logit_normal"},
    {"density": "logit_normal", "mean": -0.7, "std": 1.6},
    {"density": "power", "power": 2.0},
    {"density": "power", "power": 0.5},
    {"density": "power", "power": 12.0},
]
SHIFTS = [0.3, 1.0, 3.0]
DRAWS = 20_000
KOLMOGOROV_BOUND = 1.95 / math.sqrt(DRAWS)
"""A right sample lies above it once in a thousand times."""


def distribution(schedule: TimeSchedule, t: Tensor) -> Tensor:
    """P(time <= t), written from the definitions."""
    t = schedule.shift * t.double() / (1 + (schedule.shift - 1) * t.double())
    if schedule.density == "uniform":
        return t
    if schedule.density == "power":
        return t ** (1 / schedule.power)
    normal = torch.distributions.Normal(schedule.mean, schedule.std)
    return normal.cdf(torch.log(t) - torch.log1p(-t))


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("density", DENSITIES)
def test_training_times_follow_the_density(density: dict, shift: float) -> None:
    schedule = TimeSchedule(**density, shift=shift)
    times = schedule.sample(DRAWS, generator(1)).sort().values
    assert times.shape == (DRAWS,)
    assert times.dtype == torch.float32
    assert 0 <= float(times[0]) <= float(times[-1]) <= 1
    expected = distribution(schedule, times)
    ranks = torch.arange(DRAWS + 1, dtype=torch.float64) / DRAWS
    distance = torch.maximum((expected - ranks[:-1]).abs(), (expected - ranks[1:]).abs()).max()
    assert float(distance) < KOLMOGOROV_BOUND


def test_moments_of_the_power_density() -> None:
    times = TimeSchedule(density="power", power=2.0).sample(DRAWS, generator(2))
    assert float(times.mean()) == pytest.approx(1 / 3, abs=0.01)
    assert float(times.square().mean()) == pytest.approx(1 / 5, abs=0.01)


def test_draws_repeat_with_their_generator() -> None:
    schedule = TimeSchedule()
    torch.testing.assert_close(schedule.sample(8, generator(3)), schedule.sample(8, generator(3)), rtol=0, atol=0)
    assert not torch.equal(schedule.sample(8, generator(3)), schedule.sample(8, generator(4)))


def test_the_shift_by_hand() -> None:
    grid = TimeSchedule(density="uniform", shift=3.0).solver_grid(4)
    # 1 - t = 3/4, 1/2, 1/4 become 9/10, 3/4, 1/2.
    torch.testing.assert_close(grid, torch.tensor([0, 0.1, 0.25, 0.5, 1], dtype=torch.float64))
    back = TimeSchedule(density="uniform", shift=1 / 3).solver_grid(4)
    torch.testing.assert_close(back, 1 - grid.flip(0))


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("density", DENSITIES[:5])
def test_a_grid_by_density_has_the_quantiles_of_the_training_times(density: dict, shift: float) -> None:
    schedule = TimeSchedule(**density, shift=shift, grid="density")
    grid = schedule.solver_grid(8)
    torch.testing.assert_close(distribution(schedule, grid[1:-1]), torch.arange(1, 8).double() / 8)
    times = schedule.sample(DRAWS, generator(5))
    shares = (times[:, None] <= grid[1:-1]).double().mean(0)
    torch.testing.assert_close(shares, torch.arange(1, 8).double() / 8, rtol=0, atol=KOLMOGOROV_BOUND)


def test_a_uniform_grid_is_shifted_as_training_is() -> None:
    schedule = TimeSchedule(density="uniform", shift=2.5)
    times = schedule.sample(DRAWS, generator(6))
    shares = (times[:, None] <= schedule.solver_grid(5)[1:-1]).double().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.4, 0.6, 0.8]).double(), rtol=0, atol=KOLMOGOROV_BOUND)


@pytest.mark.parametrize(
    ("density", "shift", "grid"), [*itertools.product(DENSITIES, [0.01, 0.3, 1.0, 3.0, 100.0], ["uniform", "density"])]
)
def test_a_grid_rises_from_zero_to_one(density: dict, shift: float, grid: str) -> None:
    schedule = TimeSchedule(**density, shift=shift, grid=grid)
    for steps in (1, 2, 10, 1000):
        times = schedule.solver_grid(steps)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert float(times[0]) == 0.0
        assert float(times[-1]) == 1.0
        assert bool((times.diff() > 0).all())


def test_a_grid_that_cannot_rise_is_refused() -> None:
    with pytest.raises(UsageError, match=r"time\.std"):
        TimeSchedule(std=30.0, grid="density").solver_grid(1000)
    with pytest.raises(ValueError, match="at least 1 step"):
        TimeSchedule().solver_grid(0)


@pytest.mark.parametrize("weight", ["none", "source", "target", "endpoint"])
def test_the_weight_has_mean_one_over_uniform_times(weight: str) -> None:
    t = (torch.arange(1000) + 0.5) / 1000
    weights = TimeSchedule(weight=weight).loss_weight(t)
    assert weights.shape == t.shape
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-5)


def test_the_weight_looks_to_the_named_end() -> None:
    t = torch.tensor([0.0, 0.25, 1.0])
    assert TimeSchedule(weight="source").loss_weight(t).tolist() == [2.0, 1.5, 0.0]
    assert TimeSchedule(weight="target").loss_weight(t).tolist() == [0.0, 0.5, 2.0]
    assert TimeSchedule(weight="endpoint").loss_weight(t).tolist() == [3.0, 1.6875, 0.0]
    assert TimeSchedule(weight="none").loss_weight(t).tolist() == [1.0, 1.0, 1.0]


def test_the_published_grid_tells_the_network_both_ends() -> None:
    schedule = TimeSchedule(grid="endpoints")
    grid = schedule.solver_grid(5)
    assert grid.tolist() == pytest.approx([(1 - 1e-5) * n / 5 for n in range(6)], abs=1e-12)
    seen = schedule.network_time(grid.float(), 5)
    assert seen.tolist() == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    t = torch.tensor([0.0, 0.4])
    assert schedule.network_time(t, 1).tolist() == t.tolist()
    assert TimeSchedule().network_time(t, 5).tolist() == t.tolist()


def test_the_published_grid_is_not_shifted() -> None:
    with pytest.raises(ValidationError, match="leave shift at 1"):
        TimeSchedule(grid="endpoints", shift=2.0)
