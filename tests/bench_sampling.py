"""What sampling costs: by evaluations of the network, and with guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.flow.guidance import Guidance, IndicatorGuidance
from bridgeflow.flow.solver import Euler
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dit import DiTSettings
from tests.bench_measure import Figure, in_turns, ratio

GRID = LatentSpec((4, 32, 32), "grid")
ROWS = 8
EVALUATIONS = (1, 5, 10, 25)


def sampling() -> list[Figure]:
    """A DiT 256x6 on 8 latents 4x32x32 with Euler's steps, each of which is one evaluation."""
    bridge = Bridge(BridgeSettings(), DiTSettings(patch=2), GRID, GRID).eval()
    encoded = bridge.encode(Latent(torch.randn(ROWS, *GRID.shape)))

    def sample(steps: int, guidance: Guidance | None = None) -> Callable[[], Tensor]:
        return lambda: bridge.sample(encoded, Euler(), steps, guidance)

    times = in_turns({str(steps): sample(steps) for steps in EVALUATIONS}, 5)
    figures = [ratio(f"sampling, {steps} evaluations / 1", str(steps), "1", times) for steps in EVALUATIONS[1:]]
    network, z = bridge.network, encoded.z0
    t, no, yes = torch.full((ROWS,), 0.5), torch.zeros(ROWS, dtype=torch.bool), torch.ones(ROWS, dtype=torch.bool)

    @torch.no_grad()
    def apart() -> Tensor:
        return 2 * network(z, t, no) - network(z, t, yes)

    guided = in_turns({"guided": sample(1, IndicatorGuidance(2.0)), "plain": sample(1), "two forwards": apart}, 9)
    return [
        *figures,
        ratio("an evaluation with guidance / without", "guided", "plain", guided),
        ratio("guidance by two forwards of B rows / by one of 2 B", "two forwards", "guided", guided),
    ]
