"""Solvers on equations whose solutions are known: order, cost, direction and what the observer sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from bridgeflow import registry
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.flow.solver import DormandPrinceSettings, HeunSettings, MidpointSettings, SolverSettings

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "ab2": 2}
EVALUATIONS_PER_STEP = {"euler": 1, "midpoint": 2, "heun": 2, "ab2": 1}
METHODS = [*ORDERS, "dopri5"]


@dataclass(frozen=True)
class Equation:
    """dz/dt = velocity(z, t) with z(0) = start and a solution in closed form."""

    velocity: Callable[[Tensor, float], Tensor]
    start: Tensor
    solution: Callable[[float], Tensor]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def turned(t: float) -> Tensor:
    """A quarter of a turn of (1, 0), slowing down: the angle is sin(t) pi / 2."""
    angle = math.sin(t) * math.pi / 2
    return torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)


def turning(z: Tensor, t: float) -> Tensor:
    rate = math.cos(t) * math.pi / 2
    return rate * torch.stack([-z[:, 1], z[:, 0]], dim=1)


EQUATIONS = {
    "linear": Equation(lambda z, t: -z, column(1, -2), lambda t: column(1, -2) * math.exp(-t)),
    "in_time": Equation(
        lambda z, t: torch.full_like(z, math.cos(t)), column(0, 3), lambda t: column(0, 3) + math.sin(t)
    ),
    "product": Equation(lambda z, t: z * t, column(1, 0.5), lambda t: column(1, 0.5) * math.exp(t * t / 2)),
    "quadratic": Equation(lambda z, t: z * z * t, column(0.5, -1), lambda t: 1 / (1 / column(0.5, -1) - t * t / 2)),
    "system": Equation(turning, torch.tensor([[1.0, 0.0]], dtype=torch.float64), turned),
}
GRIDS: dict[str, Callable[[int], Tensor]] = {
    "even": lambda steps: torch.linspace(0, 1, steps + 1, dtype=torch.float64),
    "square": lambda steps: torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 2,
    "alternating": lambda steps: (
        torch.cat(
            [
                torch.zeros(1, dtype=torch.float64),
                torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(steps // 2).cumsum(0),
            ]
        )
        / (2 * steps)
    ),
    "shifted": lambda steps: TimeSchedule(density="uniform", shift=3.0).solver_grid(steps),
}


def chosen(name: str, steps: int = 10, tolerance: float = 1e-4) -> SolverSettings:
    """The settings of a solver; of the tolerance where it has one."""
    own = {"tolerance": tolerance} if name == "dopri5" else {}
    settings: SolverSettings = registry.load("solver", name).model_validate({"steps": steps, **own})
    return settings


def integrate(method: str, equation: Equation, grid: Tensor, tolerance: float = 1e-6) -> Tensor:
    solver = chosen(method, tolerance=tolerance).build()
    return solver.integrate(equation.velocity, equation.start, grid)


def order(method: str, equation: Equation, grid: Callable[[int], Tensor]) -> float:
    """Slope of log error over log step, by least squares."""
    counts = [32, 64, 128, 256]
    errors = [float((integrate(method, equation, grid(n)) - equation.solution(1.0)).abs().max()) for n in counts]
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("method", ORDERS)
def test_the_error_falls_with_the_order_of_the_method(method: str, equation: str, grid: str) -> None:
    assert order(method, EQUATIONS[equation], GRIDS[grid]) == pytest.approx(ORDERS[method], abs=0.12)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_dopri5_keeps_its_tolerance_and_pays_for_it(equation: str) -> None:
    task = EQUATIONS[equation]
    costs = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        solver = DormandPrinceSettings(tolerance=tolerance).build()
        end = solver.integrate(task.velocity, task.start, GRIDS["even"](2))
        assert float((end - task.solution(1.0)).abs().max()) < 5 * tolerance
        costs.append(solver.evaluations)
    assert costs[0] <= costs[1] < costs[2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_evaluations_are_counted_anew_each_time(method: str, steps: int) -> None:
    calls = 0

    def velocity(z: Tensor, t: float) -> Tensor:
        nonlocal calls
        calls += 1
        return -z

    solver = chosen(method).build()
    for _ in range(2):
        calls = 0
        solver.integrate(velocity, column(1.0), GRIDS["even"](steps))
        assert solver.evaluations == calls
        if method in ORDERS:
            assert calls == steps * EVALUATIONS_PER_STEP[method]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 20.0])
def test_dopri5_never_asks_for_a_velocity_beyond_the_ends(scale: float, backwards: bool) -> None:
    asked: list[float] = []

    def velocity(z: Tensor, t: float) -> Tensor:
        asked.append(t)
        return scale * torch.full_like(z, math.cos(3 * t))

    grid = GRIDS["even"](3).flip(0) if backwards else GRIDS["even"](3)
    for start in (column(1.0, -1.0), column(1.0, -1.0).float()):
        DormandPrinceSettings(tolerance=1e-3).build().integrate(velocity, start, grid)
    assert 0 <= min(asked) <= max(asked) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_an_observer_does_not_change_the_result(method: str) -> None:
    equation, grid = EQUATIONS["product"], GRIDS["square"](10)
    seen = chosen(method).build()
    unseen = chosen(method).build()
    end = seen.integrate(equation.velocity, equation.start, grid, lambda t, z: None)
    torch.testing.assert_close(end, unseen.integrate(equation.velocity, equation.start, grid), rtol=0, atol=0)
    assert seen.evaluations == unseen.evaluations


@pytest.mark.parametrize("method", METHODS)
def test_an_integration_leaves_nothing_behind_for_the_next(method: str) -> None:
    solver = chosen(method).build()
    equation = EQUATIONS["product"]
    first = solver.integrate(equation.velocity, equation.start, GRIDS["even"](6))
    solver.integrate(lambda z, t: 5 - z, equation.start, GRIDS["square"](3))
    torch.testing.assert_close(
        solver.integrate(equation.velocity, equation.start, GRIDS["even"](6)), first, rtol=0, atol=0
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_observer_sees_the_start_and_every_time_of_the_grid(method: str) -> None:
    equation, grid = EQUATIONS["system"], GRIDS["square"](100)
    seen: list[tuple[float, Tensor]] = []
    solver = chosen(method, tolerance=1e-6).build()
    end = solver.integrate(equation.velocity, equation.start, grid, lambda t, z: seen.append((t, z)))
    assert [t for t, _ in seen] == grid.tolist()
    torch.testing.assert_close(seen[0][1], equation.start, rtol=0, atol=0)
    torch.testing.assert_close(seen[-1][1], end, rtol=0, atol=0)
    error = max(float((z - equation.solution(t)).abs().max()) for t, z in seen)
    assert error < (0.03 if method == "euler" else 1e-3)


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_falling_grid_leads_back_to_the_start(method: str, equation: str) -> None:
    task = EQUATIONS[equation]
    backwards = Equation(task.velocity, task.solution(1.0), lambda t: task.solution(t))
    error = (integrate(method, backwards, GRIDS["square"](200).flip(0)) - task.start).abs().max()
    assert float(error) < {"euler": 0.03, "dopri5": 1e-5}.get(method, 3e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_velocity_takes_one_step(method: str) -> None:
    slope = torch.tensor([[1.5, -0.25], [3.0, 0.125]])
    start = torch.tensor([[1.0, 2.0], [-4.0, 0.0]])
    end = chosen(method).build().integrate(lambda z, t: slope, start, GRIDS["even"](1))
    torch.testing.assert_close(end, start + slope, rtol=0, atol=1e-5 if method == "dopri5" else 1e-6)
    assert end.dtype == torch.float32


def test_ab2_extrapolates_the_slope_by_the_ratio_of_the_steps() -> None:
    grid = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    end = integrate("ab2", Equation(lambda z, t: torch.full_like(z, 4 * t), column(0), lambda t: column(0)), grid)
    # Euler with slope 0 to 0.25; then slope 1 + 0.75 / (2 * 0.25) * (1 - 0) = 2.5 over 0.75.
    assert float(end) == pytest.approx(1.875, abs=1e-12)


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("method", METHODS)
def test_a_velocity_without_an_end_is_asked_for_before_it_alone(method: str, steps: int, observed: bool) -> None:
    """A predicted target x(t) = 1 + 0.5 (1 - t)^2 gives (x - z) / (1 - t), which leads to 1 and has no value there."""
    asked: list[float] = []

    def velocity(z: Tensor, t: float) -> Tensor:
        asked.append(t)
        return (1 + 0.5 * (1 - t) ** 2 - z) / (1 - t)

    solver = chosen(method, steps=steps, tolerance=1e-6)
    seen: list[tuple[float, Tensor]] = []
    observer = (lambda t, z: seen.append((t, z))) if observed else None
    built = solver.build()
    grid = GRIDS["even"](steps)
    end = built.integrate(velocity, column(-3.0, 4.0), grid, observer, open_end=True)
    assert max(asked) < 1
    assert built.evaluations == len(asked)
    assert solver.evaluations(open_end=True) in (None, len(asked))
    # The last step lands on what is predicted before the end.
    assert float((end - 1).abs().max()) <= 0.5 / steps**2 + 1e-6
    if observed:
        assert [t for t, _ in seen] == grid.tolist()
        torch.testing.assert_close(seen[-1][1], end, rtol=0, atol=0)


def test_the_evaluations_of_a_solver_are_known_beforehand() -> None:
    for method, each in EVALUATIONS_PER_STEP.items():
        assert chosen(method, steps=7).evaluations() == 7 * each
    assert HeunSettings(steps=7).evaluations(open_end=True) == 13
    assert MidpointSettings(steps=7).evaluations(open_end=True) == 14
    assert DormandPrinceSettings().evaluations() is None
