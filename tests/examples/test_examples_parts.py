"""Parts of the method from other distributions, each installed from its wheel: a path, solvers, an optimiser."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

NAMES = ("brownian", "lion", "ab3")
LONGEST = 80
"""Lines of their own that such a distribution may need."""


@pytest.fixture(scope="module")
def sites(install_example: Callable[[str], Path]) -> list[Path]:
    return [install_example(f"bridgeflow-{name}") for name in NAMES]


@pytest.fixture(scope="module")
def place(elsewhere: Callable[..., Any]) -> Any:
    """A folder to run commands in, with the wheels installed."""
    return elsewhere(*(f"bridgeflow-{name}" for name in NAMES))


@pytest.fixture(scope="module")
def imported(sites: list[Path]) -> Iterator[dict[str, Any]]:
    """The packages, imported from the installed wheels."""
    before = list(sys.path)
    sys.path[:0] = map(str, sites)
    try:
        yield {name: __import__(f"bridgeflow_{name}") for name in NAMES}
    finally:
        sys.path[:] = before
        for name in NAMES:
            sys.modules.pop(f"bridgeflow_{name}", None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("path", "brownian"), ("solver", "euler_maruyama"), ("optimizer", "lion"), ("solver", "ab3")],
)
def test_checks_pass(place: Any, kind: str, name: str) -> None:
    (fact,) = json.loads(place.call("plugins", "check", name, "--kind", kind, "--json"))
    assert {check["status"] for check in fact["checks"]} == {"passed"}


def test_a_run_is_trained_with_them_and_samples_with_them(place: Any) -> None:
    tiny = [
        "data.size=8",
        "data.workers=1",
        "network.channels=[8,8,8]",
        "network.attention=[]",
        "training.batch_size=4",
    ]
    small = ["training.steps=2", "training.evaluate=4", "training.samples=2", "optimizer.name=lion"]
    noisy = ["path={name: brownian, noise: 0.3}", "sampling.solver={name: euler_maruyama, steps: 3}"]
    facts = json.loads(place.call("train", "--task", "depth", "-o", "run", "--json", *tiny, *small, *noisy))
    assert math.isfinite(facts["evaluation"]["figures"]["abs_rel"])
    meta = json.loads((place.folder / facts["checkpoint"] / "meta.json").read_text())
    noted = {(own["kind"], own["name"]): own["distribution"] for own in meta["plugins"]}
    assert noted["path", "brownian"] == noted["solver", "euler_maruyama"] == "bridgeflow-brownian"
    assert noted["optimizer", "lion"] == "bridgeflow-lion"
    scored = ["--checkpoint", "run", "--count", "4", "--quick", "--solver", "ab3"]
    report = json.loads(place.started("bridgeflow", "eval", "--task", "depth", *scored, "--json"))
    assert math.isfinite(report["figures"]["abs_rel"])


@pytest.mark.parametrize("grid", ["even", "uneven"])
def test_ab3_is_of_third_order(imported: dict[str, Any], grid: str) -> None:
    """The error of z' = -z + sin 5t falls with the third power of the number of steps, on grids of any spacing."""
    errors = []
    for steps in (64, 128, 256):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        times = times if grid == "even" else times**1.5
        solver = imported["ab3"].AdamsBashforth3Settings(steps=steps).build()
        found = solver.integrate(lambda z, t: -z + math.sin(5 * t), torch.ones(1, 1, dtype=torch.float64), times)
        # z = (sin 5t - 5 cos 5t) / 26 + c exp(-t)
        exact = (math.sin(5) - 5 * math.cos(5)) / 26 + (1 + 5 / 26) * math.exp(-1)
        errors.append(abs(float(found) - exact))
        assert solver.evaluations == steps + 1
    orders = [math.log2(before / after) for before, after in pairwise(errors)]
    assert orders == pytest.approx([3, 3], abs=0.25)


def test_the_stochastic_equation_reaches_what_the_ordinary_one_cannot(imported: dict[str, Any]) -> None:
    """With the exact mean of two equally likely targets -1 and 1 as its prediction, the stochastic equation ends at
    both of them from one source, and the ordinary one at neither."""
    brownian = imported["brownian"]
    path = brownian.BrownianPathSettings(noise=1.0).build()

    def velocity(z: torch.Tensor, t: float) -> torch.Tensor:
        # The posterior mean of z1 for z_t = t z1 + sqrt(t (1 - t)) eps.
        mean = torch.tanh(z / (1 - t))
        return path.velocity_towards(z, mean, torch.full((len(z),), t))

    grid, start = torch.linspace(0, 1, 101, dtype=torch.float64), torch.zeros(2000, 1)
    draws = torch.Generator().manual_seed(0)
    solver = brownian.EulerMaruyama()

    def noise(z: torch.Tensor, t: float) -> torch.Tensor:
        return path.diffusion(t) * torch.randn(z.shape, generator=draws)

    ends = solver.integrate(velocity, start, grid, open_end=True, noise=noise)
    assert float((ends.abs() - 1).abs().mean()) < 0.05
    assert float((ends > 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert float(solver.integrate(velocity, start, grid, open_end=True).abs().max()) < 1e-6


def test_each_is_short() -> None:
    for name in NAMES:
        file = Path(__file__).parents[2] / "docs" / "examples" / f"bridgeflow-{name}" / "src" / f"bridgeflow_{name}"
        assert len((file / "__init__.py").read_text().splitlines()) <= LONGEST


def test_lion_steps_by_the_sign_of_its_momentum(imported: dict[str, Any]) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = imported["lion"].Lion([{"params": [weight], "weight_decay": 0.5}], 0.1, (0.9, 0.5))
    for gradient in ([3.0, -0.01], [-1.0, -0.01]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    # Each step shrinks by 0.95 and goes 0.1 against the sign of 0.9 m + 0.1 g, where m is 0 and then half of g.
    expected = [(0.95 * 1 - 0.1) * 0.95 - 0.1, (0.95 * -2 + 0.1) * 0.95 + 0.1]
    assert weight.tolist() == pytest.approx(expected)
    assert optimizer.state[weight]["momentum"].tolist() == pytest.approx([0.25, -0.0075])
