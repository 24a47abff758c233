"""The figures of a run: what they are called, and their means between two lines of the log."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from bridgeflow.bridge import Losses
from bridgeflow.runtime import collective

GRADIENT_NORM = "grad_norm"
TERMS = ("loss", "flow", "encoding", "kl")
"""The losses that are logged, as train/loss, train/flow, ..."""
HEALTH = ("z0_std", "sigma", "mu_batch_std")
"""Statistics of the source that are logged, as source/z0_std, ..."""
_FORMER = {
    **{name: f"train/{name}" for name in TERMS},
    **{name: f"source/{name}" for name in HEALTH},
    "gradient_norm": GRADIENT_NORM,
    "learning_rate": "lr",
}
"""What figures were called in runs of before."""


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl, with the names that figures have now; not those that were cut short."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if step_of(line) < NO_STEP:
            rows.append({_FORMER.get(name, name): value for name, value in json.loads(line).items()})
    return rows


NO_STEP = 1 << 62
"""The step of half a line: later than any."""


def step_of(line: str) -> int:
    """The step that a line of metrics.jsonl is of."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return NO_STEP


def of_term(name: str) -> str:
    """What the figure of a term of the losses is called."""
    return name if name == GRADIENT_NORM else f"train/{name}"


class Window:
    """Means over the steps between two lines of the log."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.totals: dict[str, Tensor] = {}
        self.health: dict[str, Tensor] = {}

    def add(self, losses: Losses, seconds: float, waited: float) -> None:
        """Counts a step, without waiting for the device."""
        self.steps += 1
        self.seconds += seconds
        self.waited += waited
        for name, value in {"loss": losses.total.detach(), **losses.terms}.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value
        self.health = losses.health

    def figures(self, pairs: int) -> dict[str, float]:
        """The figures by name, means over the processes, which all ask for them together. pairs: of a step, of all
        processes."""
        means = {of_term(name): total / self.steps for name, total in self.totals.items()}
        means |= {f"source/{name}": value for name, value in self.health.items()}
        told = collective.mean(torch.stack([value.float() for value in means.values()])).tolist()
        figures: dict[str, float] = dict(zip(means, told, strict=True))
        figures["pairs_per_second"] = self.steps * pairs / self.seconds
        figures["data_wait"] = self.waited / self.seconds
        return figures


def mean_losses(parts: list[Losses]) -> Losses:
    """The mean of several backward passes' losses; the health of the last."""
    if len(parts) == 1:
        return parts[0]
    terms = {name: torch.stack([part.terms[name] for part in parts]).mean() for name in parts[0].terms}
    return Losses(torch.stack([part.total for part in parts]).mean(), terms, parts[-1].health)
