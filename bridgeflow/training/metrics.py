"""The figures of a run: what they are called, and their means between two lines of the log."""

from __future__ import annotations

import torch
from torch import Tensor

from bridgeflow.bridge import Losses
from bridgeflow.runtime import collective


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
        means = {name: total / self.steps for name, total in self.totals.items()} | self.health
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
