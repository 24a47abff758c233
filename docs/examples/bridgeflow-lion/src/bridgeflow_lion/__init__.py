"""Lion: steps of one size along the sign of the momentum (Chen et al., arXiv 2302.06675, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from bridgeflow.config.optimizers import OptimizerSettings, Parameters, decayed_alone
from pydantic import Field


class Lion(torch.optim.Optimizer):
    """One tensor of state for each parameter, where AdamW keeps two."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step along the sign of momentum and gradient, after decoupled weight decay."""
        for group in self.param_groups:
            rate, (near, far) = group["lr"], group["betas"]
            for own in (own for own in group["params"] if own.grad is not None):
                momentum = self.state[own].setdefault("momentum", torch.zeros_like(own))
                own.mul_(1 - rate * group["weight_decay"])
                own.add_(momentum.lerp(own.grad, 1 - near).sign_(), alpha=-rate)
                momentum.lerp_(own.grad, 1 - far)


class LionSettings(OptimizerSettings):
    """Steps along the sign of the momentum, with a third to a tenth of AdamW's learning rate."""

    states = 1
    name: Literal["lion"] = "lion"
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak of the schedule."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Share of the momentum in a step, and its decay."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices and kernels."""

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """The optimiser."""
        return Lion(decayed_alone(parameters, self.weight_decay), self.learning_rate, self.betas)
