"""Muon for matrices, AdamW for everything else.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) takes a step along the nearest orthogonal matrix to the
momentum; it is made for the weights of linear layers. Kernels of convolutions, embeddings, gains and biases go with
AdamW, as its authors do it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from bridgeflow.config.optimizers import AdamWSettings, OptimizerSettings, Parameters
from pydantic import Field


class Joined(torch.optim.Optimizer):
    """Several optimisers of different parameters as one: their groups, and one state that they share."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        groups = [group for part in parts for group in part.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.parts = parts
        # The groups themselves, so that a learning rate that is set here is the part's own.
        self.param_groups = groups
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step of each."""
        for part in self.parts:
            part.step()


class MuonSettings(OptimizerSettings):
    """Muon for the weights of linear layers, AdamW for the rest."""

    name: Literal["muon"] = "muon"
    learning_rate: float = Field(default=0.02, gt=0)
    """Peak of Muon's schedule."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Nesterov momentum of Muon."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of matrices and kernels."""
    adamw_rate: float = Field(default=1e-3, gt=0)
    """Peak of the schedule of AdamW."""

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """The optimiser."""
        flat = [parameter for parameter in parameters.matrices if parameter.ndim == 2]
        kernels = [parameter for parameter in parameters.matrices if parameter.ndim != 2]
        own: dict[str, Any] = {"lr": self.learning_rate, "momentum": self.momentum, "weight_decay": self.weight_decay}
        muon = [torch.optim.Muon(flat, **own)] if flat else []
        adamw = AdamWSettings(learning_rate=self.adamw_rate, weight_decay=self.weight_decay)
        return Joined([*muon, adamw.build(Parameters(kernels, parameters.others))])
