"""The path against its formula, its ends and its derivative."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from bridgeflow.flow.losses import flow_loss
from bridgeflow.flow.path import LARGEST_WEIGHT, StraightPathSettings, expand
from bridgeflow.flow.schedule import TimeSchedule

SIGMAS = [0.0, 1e-5, 0.1, 0.7]
SHAPES = [(5, 3), (5, 2, 4), (5, 2, 3, 4)]


def ends(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=source).double(), torch.randn(shape, generator=source).double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_path_runs_from_source_to_target(sigma: float, shape: tuple[int, ...]) -> None:
    z0, z1 = ends(shape)
    path = StraightPathSettings(sigma_min=sigma).build()
    torch.testing.assert_close(path.interpolate(z0, z1, torch.zeros(5).double()), z0, rtol=0, atol=0)
    torch.testing.assert_close(path.interpolate(z0, z1, torch.ones(5).double()), sigma * z0 + z1)


def test_each_row_stands_at_its_own_time() -> None:
    z0, z1 = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[10.0], [10.0], [10.0]])
    t = torch.tensor([0.0, 0.5, 1.0])
    # (1 - 0.8 t) + 10 t
    torch.testing.assert_close(
        StraightPathSettings(sigma_min=0.2).build().interpolate(z0, z1, t), torch.tensor([[1.0], [5.6], [10.2]])
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_velocity_is_the_derivative_of_the_path(sigma: float, shape: tuple[int, ...]) -> None:
    z0, z1 = ends(shape)
    path, h = StraightPathSettings(sigma_min=sigma).build(), 1e-4
    t = torch.linspace(0.1, 0.9, 5).double()
    slope = (path.interpolate(z0, z1, t + h) - path.interpolate(z0, z1, t - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(z0, z1, z0, t), slope, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_state_and_its_velocity_tell_the_target(sigma: float, shape: tuple[int, ...]) -> None:
    z0, z1 = ends(shape)
    path = StraightPathSettings(sigma_min=sigma).build()
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]).double()
    z_t = path.interpolate(z0, z1, t)
    torch.testing.assert_close(path.target(z_t, path.velocity(z0, z1, z_t, t), t), z1, rtol=0, atol=1e-12)


def test_times_broadcast_over_the_axes_behind_the_batch() -> None:
    t = torch.tensor([0.25, 0.75])
    assert expand(t, torch.zeros(2, 3, 4, 5)).shape == (2, 1, 1, 1)
    assert expand(t, torch.zeros(2, 3)).tolist() == [[0.25], [0.75]]


@pytest.mark.parametrize("sigma", [-0.1, 1.0])
def test_the_share_of_the_source_lies_below_one(sigma: float) -> None:
    with pytest.raises(ValidationError, match="sigma_min"):
        StraightPathSettings(sigma_min=sigma).build()


@pytest.mark.parametrize("sigma", [0.0, 1e-5, 0.1])
def test_a_velocity_towards_a_target_is_the_inverse_of_the_target(sigma: float) -> None:
    path = StraightPathSettings(sigma_min=sigma).build()
    z0, z1, t = torch.randn(5, 3, 4), torch.randn(5, 3, 4), torch.tensor([0.0, 0.3, 0.6, 0.9, 0.999])
    z_t, velocity = path.interpolate(z0, z1, t), path.velocity(z0, z1, z0, t)
    found = path.velocity_towards(z_t, path.target(z_t, velocity, t), t)
    torch.testing.assert_close(found, velocity, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.0, 1e-5, 0.1])
@pytest.mark.parametrize("weight", ["none", "source", "target", "endpoint"])
def test_an_error_of_the_target_counts_what_the_error_of_its_velocity_does(sigma: float, weight: str) -> None:
    path, own = StraightPathSettings(sigma_min=sigma).build(), TimeSchedule(weight=weight)
    z0, z1 = ends((6, 3, 4))
    t = torch.tensor([0.0, 0.3, 0.6, 0.8, 0.9, 0.92]).double()
    guess = z1 + 0.1 * torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    z_t = path.interpolate(z0, z1, t)
    of_velocity = own.loss_weight(t) * flow_loss(path.velocity_towards(z_t, guess, t), path.velocity(z0, z1, z_t, t))
    of_target = path.target_weight(t, own.loss_weight(t)) * flow_loss(guess, z1)
    torch.testing.assert_close(of_target, of_velocity, rtol=1e-4, atol=1e-6)


def test_the_weight_of_a_predicted_target_is_bounded_to_the_end() -> None:
    t = torch.tensor([0.0, 0.5, 0.95, 0.99, 1.0])
    path = StraightPathSettings(sigma_min=0.0).build()
    found = path.target_weight(t, torch.ones(5)).tolist()
    assert found == pytest.approx([1, 4, LARGEST_WEIGHT, LARGEST_WEIGHT, LARGEST_WEIGHT], rel=1e-4)
    plain = path.target_weight(t, TimeSchedule(weight="endpoint").loss_weight(t))
    assert plain[:4].tolist() == pytest.approx([3.0] * 4, rel=1e-4)
    assert float(plain[4]) == 0.0
