"""Optimisers, as settings that build them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from bridgeflow.settings import Settings


@dataclass(frozen=True)
class Parameters:
    """The trainable parameters of a bridge, in the two kinds that optimisers treat differently."""

    matrices: list[nn.Parameter]
    """What features are multiplied by: the weights of linear layers and convolutions."""
    others: list[nn.Parameter]
    """Biases, gains of norms, embeddings, learned tokens, positions and queries."""
    inner: list[nn.Parameter] = field(default_factory=list)
    """Those of the matrices that lie between hidden features: inside blocks, and not what computes their modulation."""


class OptimizerSettings(Settings, ABC):
    """Base class of an optimiser's settings, found under the entry point group `bridgeflow.optimizers`."""

    states: ClassVar[int] = 2
    """Tensors of a parameter's size that it keeps for each parameter, for the estimate of memory."""

    name: str
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of the schedule."""

    @abstractmethod
    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """The optimiser. The learning rate of each of its groups is scaled along the run; its state, tensors by
        parameter, is kept in checkpoints."""


class AdamWSettings(OptimizerSettings):
    """AdamW; biases, norms, embeddings and learned tokens, positions and queries are not decayed."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of matrices and kernels, which is what layers call `weight`."""

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """The optimiser."""
        return torch.optim.AdamW(
            decayed_alone(parameters, self.weight_decay), lr=self.learning_rate, betas=self.betas, fused=True
        )


class SGDSettings(OptimizerSettings):
    """Stochastic gradient descent with momentum."""

    states = 1
    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=1e-2, gt=0)
    """Peak of the schedule."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of matrices and kernels."""

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """The optimiser."""
        groups = decayed_alone(parameters, self.weight_decay)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)


def decayed_alone(parameters: Parameters, weight_decay: float) -> list[dict[str, object]]:
    """Groups of parameters of which the matrices alone are decayed."""
    return [
        {"params": parameters.matrices, "weight_decay": weight_decay},
        {"params": parameters.others, "weight_decay": 0.0},
    ]
