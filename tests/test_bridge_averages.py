"""Bridges whose objective teaches average velocities: what solvers ask for, what is trained, and what val/loss is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.errors import UsageError
from bridgeflow.flow.objective import FlowMatching
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.flow.solver import Euler, Heun
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.velocity import NetworkSettings, VelocityNet
from bridgeflow.runtime.randomness import generator

GRID = LatentSpec((3, 4, 8), "grid")
DIT = DiTSettings(width=32, depth=2, heads=4, patch=2)


class Averages(VelocityNet):
    """Keeps the two times it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[float, float]] = []

    def forward(self, z: Tensor, t: Tensor, null: Tensor, *_: object, r: Tensor | None = None) -> Tensor:
        assert r is not None
        self.asked += [(float(t[0]), float(r[0]))]
        return torch.zeros_like(z)


class AveragesSettings(NetworkSettings):
    def build(self, latent: LatentSpec, context: LatentSpec | None = None) -> VelocityNet:
        assert self.second_time
        return Averages()


@pytest.mark.parametrize(
    ("solver", "steps", "asked"),
    [
        (Euler(), 1, [(0.0, 1.0)]),
        (Euler(), 4, [(0.0, 0.0625), (0.0625, 0.25), (0.25, 0.5625), (0.5625, 1.0)]),
        # Other solvers look at velocities at one time, which is the average over no time at all.
        (Heun(), 1, [(0.0, 0.0), (1.0, 1.0)]),
    ],
)
def test_a_step_of_euler_follows_the_average_over_it(
    solver: Euler | Heun, steps: int, asked: list[tuple[float, float]]
) -> None:
    time = TimeSchedule(density="power", power=2, grid="density")
    settings = BridgeSettings(objective={"name": "mean_flow"}, time=time)
    bridge = Bridge(settings, AveragesSettings(), GRID, GRID)
    encoded = bridge.encode(Latent(torch.randn(2, *GRID.shape)))
    bridge.sample(encoded, solver, steps)
    network = bridge.network
    assert isinstance(network, Averages)
    assert network.asked == asked


def test_an_objective_of_velocities_refuses_to_predict_targets() -> None:
    settings = BridgeSettings(objective={"name": "mean_flow"}, prediction="target")
    with pytest.raises(UsageError, match="mean_flow teaches velocities, not prediction=target"):
        Bridge(settings, DIT, GRID, GRID)


def test_mean_flow_gives_every_parameter_a_gradient_and_follows_the_training() -> None:
    settings = BridgeSettings(objective={"name": "mean_flow", "guidance": 2.0, "curriculum": (0.0, 0.5)})
    bridge = Bridge(settings, DIT, GRID, GRID)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    pair = [Latent(torch.randn(4, *GRID.shape, generator=generator("test", side))) for side in range(2)]
    null = torch.tensor([True, False, False, False])
    found = [bridge(*pair, generator("draws"), null, progress) for progress in (0.0, 0.25, 1.0)]
    assert len({float(own.total.detach()) for own in found}) == 3
    found[-1].total.backward()
    without = [name for name, own in bridge.named_parameters() if own.grad is None or not own.grad.abs().sum() > 0]
    assert without == []


def test_the_velocity_alone_is_measured_as_flow_matching_measures_it() -> None:
    """val/loss: the loss of averages is divided by itself, and would be about 1 however good the network is."""
    torch.manual_seed(0)
    plain = Bridge(BridgeSettings(), DIT, GRID, GRID)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    averaging = Bridge(BridgeSettings(objective={"name": "mean_flow"}), DIT, GRID, GRID)
    averaging.load_state_dict(plain.state_dict(), strict=False)
    source, z1 = Latent(torch.randn(4, *GRID.shape)), torch.randn(4, *GRID.shape)
    null = torch.zeros(4, dtype=torch.bool)
    losses = [
        bridge.flow_loss(bridge.encode(source), z1, null, None, TimeSchedule(), generator("times"), objective=objective)
        for bridge, objective in ((plain, None), (averaging, FlowMatching()))
    ]
    torch.testing.assert_close(*losses)
