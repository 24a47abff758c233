"""Muon for the matrices inside blocks, AdamW for everything else.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) steps along the nearest orthogonal matrix to the momentum.
It is made for weights between hidden features; what reads inputs, modulates or writes results goes with AdamW, as its
authors do it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bridgeflow.config.optimizers import AdamWSettings, OptimizerSettings, Parameters

NEWTON_SCHULZ, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Coefficients a, b, c of the iteration, and how often it is taken: those of its authors, as torch has them."""


class Muon(torch.optim.Optimizer):
    """As torch's own, but in float32 on a CPU: most processors have no units for the bfloat16 that torch takes."""

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step along the orthogonalised momentum (Nesterov's), after decoupled weight decay."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for matrix in (own for own in group["params"] if own.grad is not None):
                buffer = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                mean = buffer.lerp_(matrix.grad, 1 - momentum)
                direction = orthogonal(matrix.grad.lerp(mean, momentum))
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.add_(direction, alpha=-rate * max(1, len(matrix) / matrix.shape[1]) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest orthogonal matrix, by Newton-Schulz iterations X <- a X + (b A + c A^2) X with A = X X'."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = (wide / wide.norm().clamp(min=1e-7)).to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    found: Tensor = x if wide is matrix else x.T
    return found.to(matrix.dtype)


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
    """Muon for the weights of linear layers inside blocks, AdamW for the rest."""

    name: Literal["muon"] = "muon"
    learning_rate: float = Field(default=0.02, gt=0)
    """Peak of Muon's schedule."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Nesterov momentum of Muon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices and kernels."""
    adamw_rate: float = Field(default=1e-3, gt=0)
    """Peak of the schedule of AdamW."""
    adamw_betas: tuple[float, float] = (0.9, 0.99)
    """Decay of AdamW's first and second moment."""

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """The optimiser."""
        inner = [own for own in parameters.inner if own.ndim == 2]
        taken = {id(own) for own in inner}
        matrices = [own for own in parameters.matrices if id(own) not in taken]
        muon = [Muon(inner, self.learning_rate, self.weight_decay, self.momentum)] if inner else []
        adamw = AdamWSettings(learning_rate=self.adamw_rate, weight_decay=self.weight_decay, betas=self.adamw_betas)
        return Joined([*muon, adamw.build(Parameters(matrices, parameters.others))])
