"""MeanFlow: its fixed point is the exact average velocity, and a network that it taught needs one evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.flow.mean_flow import MeanFlowSettings
from bridgeflow.flow.objective import FlowBatch
from bridgeflow.flow.path import FlowPath, StraightPathSettings, expand
from bridgeflow.flow.schedule import TimeSchedule


class Decay(FlowPath):
    """z_t = z0 exp(-t): a flow that is not straight, with velocity -z."""

    def interpolate(self, z0: Tensor, z1: Tensor, t: Tensor, randomness: Any = None) -> Tensor:
        return z0 * torch.exp(-expand(t, z0))

    def velocity(self, z0: Tensor, z1: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        return -z_t


def average(z: Tensor, t: Tensor, r: Tensor | None = None, null: Tensor | None = None) -> list[Tensor]:
    """The exact average velocity of `Decay` from t to r."""
    length = expand((t if r is None else r) - t, z)
    short = length.abs() < 1e-6
    return [torch.where(short, -z, z * (torch.exp(-length) - 1) / torch.where(short, 1.0, length))]


def batch(predict: Any = average, path: FlowPath | None = None, rows: int = 16, **changes: Any) -> FlowBatch:
    given = {
        "z0": torch.randn(rows, 3, generator=torch.Generator().manual_seed(1)),
        "z1": torch.randn(rows, 3, generator=torch.Generator().manual_seed(2)),
        "mask": None,
        "predict": predict,
        "prediction": "velocity",
        "path": path or Decay(),
        "time": TimeSchedule(density="uniform"),
        "stage_weights": (1.0,),
        "null": torch.zeros(rows, dtype=torch.bool),
        "randomness": torch.Generator().manual_seed(0),
    }
    return FlowBatch(**{**given, **changes})


def loss(flow: FlowBatch, **settings: Any) -> float:
    return float(MeanFlowSettings(**{"intervals": 1.0, "adaptive": 0.0, **settings}).build().loss(flow))


@pytest.mark.parametrize("tangent", ["conditional", "predicted"])
def test_the_exact_average_has_no_loss(tangent: str) -> None:
    assert loss(batch(), tangent=tangent) < 1e-10

    def instantaneous(z: Tensor, t: Tensor, r: Tensor | None = None, null: Tensor | None = None) -> list[Tensor]:
        return [-z]

    # The velocity at t alone is right for flow matching, and not over an interval.
    assert loss(batch(instantaneous), tangent=tangent) > 0.01
    assert loss(batch(instantaneous), tangent=tangent, intervals=0.0) < 1e-10


def test_the_curriculum_goes_from_the_velocity_to_its_average() -> None:
    along = {at: loss(batch(progress=at), curriculum=(0.2, 0.8)) for at in (0.0, 0.2, 0.5, 0.75, 0.9)}
    # At first each interval is taught the velocity, which the average is not; at the end the average itself.
    assert along[0.0] == along[0.2] > along[0.5] > along[0.75] > along[0.9]
    assert along[0.9] < 1e-10


def test_guidance_is_trained_in_for_rows_that_are_not_null() -> None:
    asked: list[Tensor | None] = []

    def predict(z: Tensor, t: Tensor, r: Tensor | None = None, null: Tensor | None = None) -> list[Tensor]:
        asked.append(null)
        given = torch.zeros(len(z), dtype=torch.bool) if null is None else null
        # Unconditionally nothing moves.
        return [torch.where(given[:, None], 0.0, -3 * z)]

    null = torch.arange(16) % 2 == 0
    flow = batch(predict, null=null)
    # w v + (1 - w) 0 = -3 z where the condition counts, -z for null rows: those alone are 2 z off.
    found = loss(flow, guidance=3.0, intervals=0.0, tangent="conditional")
    z = flow.path.interpolate(
        flow.z0, flow.z1, TimeSchedule(density="uniform").sample(16, torch.Generator().manual_seed(0))
    )
    assert found == pytest.approx(float((2 * z[null]).square().mean() / 2), rel=1e-5)
    assert [own is not None and bool(own.all()) for own in asked] == [True, False]
    asked.clear()
    loss(batch(predict), intervals=0.0, tangent="conditional")
    assert asked == [None]


def test_each_row_is_divided_by_its_own_error() -> None:
    flow = batch(lambda z, t, r=None, null=None: [10 * z])
    assert 0.9 < loss(flow, adaptive=1.0) < 1


def test_networks_of_several_resolutions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"networks of one resolution, and this one has 2"):
        loss(batch(stage_weights=(0.5, 1.0)))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, z: Tensor, t: Tensor, r: Tensor | None = None, null: Tensor | None = None) -> list[Tensor]:
        return [self.layers(torch.cat([z, t[:, None], ((t if r is None else r) - t)[:, None]], 1))]


def test_one_evaluation_is_enough_where_flow_matching_gives_the_mean() -> None:
    """From a standard normal to -2 or 2, each for half of it: of all at once the velocity at the start is the mean."""
    torch.manual_seed(0)
    network, random = Small(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    objective = MeanFlowSettings(intervals=0.5, adaptive=0.0).build()
    for _ in range(600):
        z0 = torch.randn(256, 1, generator=random)
        z1 = 4 * torch.randint(2, (256, 1), generator=random).float() - 2
        flow = batch(
            network, StraightPathSettings().build(), 256, z0=z0, z1=z1, randomness=random, null=torch.zeros(256) > 0
        )
        optimizer.zero_grad()
        objective.loss(flow).backward()
        optimizer.step()
    z = torch.randn(512, 1, generator=random)
    start, end = torch.zeros(512), torch.ones(512)
    with torch.no_grad():
        averaged, at_the_start = (z + network(z, start, r)[-1] for r in (end, start))
    # Few end between the two, where the velocity at the start leads all of them.
    assert float((averaged.abs() > 1).float().mean()) > 0.85
    assert float((at_the_start.abs() > 1).float().mean()) < 0.15
