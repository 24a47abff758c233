"""Checks of what stands in `bridgeflow.flow`: paths, couplings, objectives, guidance, solvers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bridgeflow.flow.objective import FlowBatch
from bridgeflow.flow.path import FlowPath, StraightPathSettings
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.flow.solver import Solver, SolverSettings
from bridgeflow.testing.outcome import Fault, calling

if TYPE_CHECKING:
    from bridgeflow.testing.parts import PartSubject

SHAPE = (3, 2, 4, 4)
TIMES = (0.1, 0.5, 0.9)
EVEN, UNEVEN = torch.linspace(0, 1, 9, dtype=torch.float64), torch.linspace(0, 1, 9, dtype=torch.float64) ** 2


def _shaped(value: Any, shape: Sequence[int], method: str) -> Tensor:
    """The value, where it is a finite tensor of that shape. Raises Fault."""
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise Fault(f"`{method}` gives {found} where {tuple(shape)} is expected: fix `{method}`.")
    if not bool(value.isfinite().all()):
        raise Fault(f"`{method}` gives numbers that are not finite: fix `{method}`.")
    return value


# -- paths ---------------------------------------------------------------------------------------------------


def _at(path: FlowPath, z0: Tensor, z1: Tensor, t: float) -> Tensor:
    times = torch.full((len(z0),), t, dtype=z0.dtype)
    with calling("interpolate", f"t = {t}"):
        found = path.interpolate(z0, z1, times, torch.Generator().manual_seed(0))
    return _shaped(found, z0.shape, "interpolate")


def check_ends(subject: PartSubject) -> str | None:
    """z at t = 0 and t = 1."""
    path, z0, z1 = subject.build(), torch.randn(SHAPE), torch.randn(SHAPE)
    for t, end, name in ((0.0, z0, "source"), (1.0, z1, "target")):
        off = float((_at(path, z0, z1, t) - end).abs().max())
        if off > 1e-3:
            raise Fault(f"at t = {t:g} the path is {off:.3g} off its {name}: let `interpolate` begin and end there.")
    return None


def check_inverse(subject: PartSubject) -> str | None:
    """target(velocity_towards(z1)) is z1."""
    path, z0, z1 = subject.build(), torch.randn(SHAPE).double(), torch.randn(SHAPE).double()
    for t in TIMES:
        z, times = _at(path, z0, z1, t), torch.full((len(z0),), t, dtype=torch.float64)
        with calling("velocity_towards"):
            velocity = _shaped(path.velocity_towards(z, z1, times), z.shape, "velocity_towards")
        with calling("target"):
            off = float((_shaped(path.target(z, velocity, times), z.shape, "target") - z1).abs().max())
        if off > 1e-6:
            raise Fault(f"`target` of `velocity_towards` is {off:.3g} off at t = {t}: make them inverse.")
    return None


def check_velocity(subject: PartSubject) -> str | None:
    """Followed from z0 in small steps, with the noise of the path where it has one, it ends near z1."""
    path, z0, z1 = subject.build(), torch.randn(SHAPE), torch.randn(SHAPE)
    z, steps = z0, 200
    for step in range(steps):
        times = torch.full((len(z0),), step / steps)
        with calling("velocity", f"t = {step / steps:g}"):
            velocity = _shaped(path.velocity(z0, z1, z, times), z.shape, "velocity")
        z = z + velocity / steps
        if step < steps - 1:
            z = z + path.diffusion(step / steps) * math.sqrt(1 / steps) * torch.randn_like(z)
    off = float((z - z1).abs().mean())
    if off > 0.1:
        raise Fault(f"followed from the source, `velocity` ends {off:.2g} away from the target: fix `velocity`.")
    return None


# -- couplings -----------------------------------------------------------------------------------------------


def check_rows(subject: PartSubject) -> str | None:
    """What is rearranged is a choice of the rows, the same for every tensor of a batch."""
    coupling, count = subject.build(), 6
    z0, z1 = torch.randn(count, 3), torch.arange(count)[:, None].float().repeat(1, 3)
    null = torch.tensor([True, False, True, False, False, True])
    with calling("couple"):
        rearranged = coupling.couple(z0, z1, null)
        first = _shaped(rearranged(z1), z1.shape, "couple")
        second = _shaped(rearranged(10 * z1), z1.shape, "couple")
    if not torch.equal(first, first.round()) or bool((first[:, :1] != first).any()):
        raise Fault("`couple` mixes rows: it should give each source one whole target.")
    if not torch.equal(second, 10 * first):
        raise Fault("`couple` puts two tensors of a batch in different orders: draw the order once, outside.")
    return None


def check_untouched(subject: PartSubject) -> str | None:
    """Targets are not written to."""
    coupling, z0, z1 = subject.build(), torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    before = z1.clone()
    with calling("couple"):
        coupling.couple(z0, z1, torch.tensor([True, True, False, False]))(z1)
    if not torch.equal(z1, before):
        raise Fault("`couple` changes the targets it is given: let it return new tensors.")
    return None


# -- objectives ----------------------------------------------------------------------------------------------


def _batch(z0: Tensor, z1: Tensor, layer: torch.nn.Linear) -> FlowBatch:
    def predict(z: Tensor, t: Tensor, r: Tensor | None = None, null: Tensor | None = None) -> list[Tensor]:
        return [layer(z) * (1 + t[:, None] + (0 if r is None else r[:, None]))]

    return FlowBatch(
        z0=z0,
        z1=z1,
        mask=None,
        predict=predict,
        prediction="velocity",
        path=StraightPathSettings().build(),
        time=TimeSchedule(),
        stage_weights=(1.0,),
        null=torch.zeros(len(z0), dtype=torch.bool),
        randomness=torch.Generator().manual_seed(3),
    )


def check_loss(subject: PartSubject) -> str | None:
    """Twice with the same generator."""
    objective, layer = subject.build(), torch.nn.Linear(5, 5)
    z0, z1 = torch.randn(8, 5), torch.randn(8, 5)
    found: list[Tensor] = []
    for _ in range(2):
        torch.manual_seed(len(found))
        with calling("loss"):
            found.append(_shaped(objective.loss(_batch(z0, z1, layer)), (), "loss"))
    if not torch.equal(*found):
        raise Fault("`loss` draws from torch's own generator: draw from `flow.randomness`.")
    return None


def check_loss_gradients(subject: PartSubject) -> str | None:
    """Of the weights and of z0."""
    objective, layer = subject.build(), torch.nn.Linear(5, 5)
    z0 = torch.randn(8, 5, requires_grad=True)
    with calling("loss"):
        objective.loss(_batch(z0, torch.randn(8, 5), layer)).backward()
    for name, own in (("the network", layer.weight), ("the source", z0)):
        if own.grad is None or not bool(own.grad.abs().sum() > 0):
            raise Fault(f"the gradient of `loss` does not reach {name}: leave out whatever detaches it.")
    return None


# -- guidance ------------------------------------------------------------------------------------------------


def _velocity(z: Tensor, t: Tensor, null: Tensor) -> Tensor:
    return torch.where(null.reshape(-1, *[1] * (z.ndim - 1)), -z, z + t.reshape(-1, *[1] * (z.ndim - 1)))


def check_guided_shape(subject: PartSubject) -> str | None:
    """A velocity of the state's shape."""
    z = torch.randn(SHAPE)
    for t in (0.0, 0.5, 1.0):
        with calling("__call__"):
            _shaped(subject.build()(_velocity, z, t), z.shape, "__call__")
    return None


def check_unguided(subject: PartSubject) -> str | None:
    """With scale 1 null rows have no part in it."""
    guidance, z = subject.settings.model_copy(update={"scale": 1.0}).build(), torch.randn(SHAPE)  # type: ignore[attr-defined]
    with calling("__call__"):
        found = guidance(_velocity, z, 0.25)
    if not torch.allclose(found, z + 0.25, atol=1e-5):
        raise Fault("at scale 1 it is not the conditional velocity that is followed: let scale 1 change nothing.")
    return None


# -- solvers -------------------------------------------------------------------------------------------------


def _solved(subject: PartSubject, velocity: Any, z: Tensor, grid: Tensor, **how: Any) -> tuple[Tensor, Solver]:
    settings = subject.settings.model_copy(update={"steps": len(grid) - 1})
    solver: Solver = settings.build()  # type: ignore[attr-defined]
    with calling("integrate", f"{len(grid) - 1} steps"):
        found = solver.integrate(velocity, z, grid, **how)
    return _shaped(found, z.shape, "integrate"), solver


def check_lines(subject: PartSubject) -> str | None:
    """z' = c."""
    z, slope = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    for name, grid in (("even", EVEN), ("uneven", UNEVEN)):
        off: list[float] = []
        _solved(
            subject,
            lambda _, __: slope,
            z,
            grid,
            observer=lambda t, state, off=off: off.append(float((state - z - t * slope).abs().max())),
        )
        if max(off, default=0.0) > 1e-6:
            raise Fault(f"a constant velocity leads {max(off):.2g} off on an {name} grid: use the steps of the grid.")
    return None


def check_order(subject: PartSubject) -> str | None:
    """z' = -2 z + t, without noise."""
    z, settings = torch.tensor([[1.0], [-2.0]]).double(), subject.settings
    assert isinstance(settings, SolverSettings)
    if settings.evaluations_per_step is None:
        return "it chooses its own steps"
    exact = (z + 0.25) * math.exp(-2) + 0.25
    errors = []
    for steps in (16, 32):
        grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        errors.append(float((_solved(subject, lambda z, t: -2 * z + t, z, grid)[0] - exact).abs().max()))
    if errors[1] > 0.6 * errors[0]:
        raise Fault(f"32 steps leave an error of {errors[1]:.2g} where 16 leave {errors[0]:.2g}: fix `step`.")
    return f"order {math.log2(errors[0] / errors[1]):.1f}"


def check_evaluations(subject: PartSubject) -> str | None:
    """Counted and declared."""
    settings, asked = subject.settings, 0
    assert isinstance(settings, SolverSettings)

    def velocity(z: Tensor, t: float) -> Tensor:
        nonlocal asked
        asked += 1
        return -z

    for open_end in (False, True):
        asked = 0
        _, solver = _solved(subject, velocity, torch.ones(1, 1), EVEN, open_end=open_end)
        declared = settings.model_copy(update={"steps": len(EVEN) - 1}).evaluations(open_end)
        if (declared is not None and declared != asked) or solver.evaluations != asked:
            raise Fault(f"`evaluations` says {declared} where the velocity is asked for {asked} times: fix it.")
    return None


def check_open_end(subject: PartSubject) -> str | None:
    """A velocity (1 - z) / (1 - t), which leads to 1 and has no value there."""
    asked: list[float] = []

    def velocity(z: Tensor, t: float) -> Tensor:
        asked.append(t)
        return (1 - z) / max(1 - t, 1e-9)

    for grid in (EVEN, EVEN[[0, -1]]):
        end, _ = _solved(subject, velocity, torch.full((1, 1), -3.0).double(), grid, open_end=True)
        if max(asked) >= 1 or abs(float(end) - 1) > 0.05:
            raise Fault("it looks at the end of the path where `open_end` is set: take the last step from before it.")
    return None


def check_observer(subject: PartSubject) -> str | None:
    """(t, z) at the start and after every step."""
    seen: list[tuple[float, Tensor]] = []
    end, _ = _solved(subject, lambda z, t: -z, torch.ones(1, 1), EVEN, observer=lambda t, z: seen.append((t, z)))
    if [t for t, _ in seen] != EVEN.tolist() or not torch.allclose(seen[-1][1], end):
        raise Fault("the observer is not called at each time of the grid: call it at the start and after every step.")
    return None
