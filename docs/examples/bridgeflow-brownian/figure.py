"""One source, many targets: the noisy path's stochastic equation beside the ordinary equation of the straight one.

Sources are five points on a line, further apart than the path's noise reaches; the targets of x are (x, -1), (x, 0) and
(x, 1). Trains both bridges for a few minutes each, draws 256 results of every source: python figure.py [SEEDS] writes
figure.png and prints how far results are from the nearest target, and how evenly they fall on the three.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.flow.solver import Euler, Solver
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dit import DiTSettings
from matplotlib.figure import Figure

import bridgeflow_brownian as brownian

POINT = LatentSpec((1, 2), "sequence")
SAMPLES, STEPS = 256, 1500
SOURCES = torch.linspace(-2, 2, 5)


def trained(settings: BridgeSettings, seed: int) -> Bridge:
    """A bridge between the points."""
    torch.manual_seed(seed)
    bridge = Bridge(settings, DiTSettings(width=64, depth=2, heads=2), POINT, POINT)
    optimizer = torch.optim.AdamW(bridge.parameters(), lr=2e-3)
    for _ in range(STEPS):
        x = SOURCES[torch.randint(0, len(SOURCES), (256, 1))]
        y = torch.randint(-1, 2, (256, 1)).float()
        source, target = torch.cat([x, 0 * x], 1)[:, None], torch.cat([x, y], 1)[:, None]
        loss = bridge(Latent(source), Latent(target)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return bridge.eval()


def results(bridge: Bridge, solver: Solver, seed: int) -> torch.Tensor:
    """(sources, SAMPLES, 2)."""
    x = SOURCES.repeat_interleave(SAMPLES)[:, None]
    encoded = bridge.encode(Latent(torch.cat([x, 0 * x], 1)[:, None]))
    z1 = bridge.sample(encoded, solver, 50, randomness=torch.Generator().manual_seed(seed))
    return z1[:, 0].reshape(len(SOURCES), SAMPLES, 2)


def figures(points: torch.Tensor) -> tuple[float, float]:
    """Mean distance to the nearest target, and how evenly a source's results fall on its three targets: 1 is a third
    on each, 0 all on one (entropy over ln 3)."""
    x = SOURCES[:, None].expand(-1, SAMPLES)
    targets = torch.stack([torch.stack([x, torch.full_like(x, y)], -1) for y in (-1, 0, 1)])
    nearest = (points - targets).norm(dim=-1).min(0)
    shares = torch.stack([(nearest.indices == k).float().mean(1) for k in range(3)])
    entropy = -(shares * shares.clamp_min(1e-9).log()).sum(0) / torch.tensor(3.0).log()
    return float(nearest.values.mean()), float(entropy.mean())


def main() -> None:
    """Trains, prints, draws."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    # The loss is the plain mean square of the predicted target, at times of equal density.
    time = TimeSchedule(density="uniform", weight="endpoint")
    own: dict[str, Any] = {"prediction": "target", "null_rate": 0, "time": time}
    noisy = BridgeSettings(path=brownian.BrownianPathSettings(noise=0.3), **own)
    ways: dict[str, tuple[BridgeSettings, Solver]] = {
        "straight path, ordinary equation": (BridgeSettings(**own), Euler()),
        "noisy path, stochastic equation": (noisy, brownian.EulerMaruyama()),
    }
    figure = Figure(figsize=(9, 4), layout="constrained")
    for place, (title, (settings, solver)) in enumerate(ways.items()):
        found = []
        for seed in range(seeds):
            points = results(trained(settings, seed), solver, seed)
            found.append(figures(points))
        mean, spread = torch.tensor(found).mean(0), torch.tensor(found).std(0, correction=int(seeds > 1))
        told = f"distance {mean[0]:.3f} ± {spread[0]:.3f}, evenness {mean[1]:.3f} ± {spread[1]:.3f}"
        print(f"{title}: {told} over {seeds} seeds")
        axes = figure.add_subplot(1, 2, place + 1, xlabel="source", ylim=(-1.5, 1.5), title=f"{title}\n{told}")
        axes.scatter(points[..., 0], points[..., 1], s=3, alpha=0.4)
    figure.savefig("figure.png", dpi=110)


if __name__ == "__main__":
    main()
