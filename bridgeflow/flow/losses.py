"""The terms of the training loss, each returned per row so that reductions are named by the caller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.runtime import collective
from bridgeflow.settings import Settings

Reduction = Literal["sum", "mean"]
LogitScale = Literal["exp", "raw"]


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over all axes but the first, (B, ...) -> (B,), of the values where `mask` is True.

    mask: bool, (B, L) or (B, 1, *sizes), broadcast over the axes it lacks. A row with nothing real gives 0.
    Padding is multiplied by 0, so it has to be finite.
    """
    if mask is None:
        return values.flatten(1).mean(1)
    while mask.ndim < values.ndim:
        mask = mask.unsqueeze(-1)
    weight = mask.to(values.dtype).expand_as(values).flatten(1)
    return (values.flatten(1) * weight).sum(1) / weight.sum(1).clamp_min(1)


def flow_loss(velocity: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity per row, (B,) (CrossFlow, equation 1)."""
    return masked_mean((velocity.float() - target.float()).square(), mask)


def pooled(velocity: Tensor, ratio: int) -> Tensor:
    """A velocity (B, C, H, W) on a grid `ratio` times as coarse: the sum of each block divided by `ratio`, which
    keeps the deviation of independent cells (Liu et al., arXiv 2406.09416)."""
    return velocity if ratio == 1 else ratio * F.avg_pool2d(velocity, ratio)


def staged_flow_loss(
    velocities: Sequence[Tensor], target: Tensor, weights: Sequence[float], mask: Tensor | None = None
) -> Tensor:
    """Weighted sum over resolutions of the flow loss per row, (B,); the last velocity has the target's shape.

    A coarse cell counts where all the cells in its block are real.
    """
    total = weights[-1] * flow_loss(velocities[-1], target, mask)
    for velocity, weight in zip(velocities[:-1], weights[:-1], strict=True):
        ratio = target.shape[-1] // velocity.shape[-1]
        # The mean of zeros and ones is 1 where all are; 0.999 leaves room for rounding.
        real = None if mask is None else F.avg_pool2d(mask.float(), ratio) > 0.999
        total = total + weight * flow_loss(velocity, pooled(target.float(), ratio), real)
    return total


class KLSettings(Settings):
    """Pull of the variational source towards N(0, 1)."""

    weight: float = Field(default=1e-2, ge=0)
    """Weight of the term in the total loss, after the reduction."""
    form: Literal["standard", "free_mean", "variance"] = "free_mean"
    """`standard`: KL(N(mu, sigma^2) || N(0, 1)). `free_mean`: mu^2 becomes (0.3 mu)^6, which leaves the mean
    nearly free up to |mu| = 3 and holds sigma near 1 (the form of the published code). `variance`: without mu, so that
    sigma alone is held (after arXiv 2602.05951)."""
    reduction: Reduction = "sum"
    """Over the latent's dimensions. The weight means nothing without it."""


def kl_loss(mu: Tensor, logvar: Tensor, form: str, reduction: str) -> Tensor:
    """KL per row, (B,), from mu and logvar of shape (B, ...): 0.5 reduce(m(mu) + exp(logvar) - 1 - logvar)."""
    mu, logvar = mu.float(), logvar.float()
    if form == "variance":
        mean_term = torch.zeros_like(mu)
    else:
        mean_term = mu.square() if form == "standard" else (0.3 * mu).pow(6)
    per_dimension = 0.5 * (mean_term + logvar.exp() - 1 - logvar).flatten(1)
    return per_dimension.sum(1) if reduction == "sum" else per_dimension.mean(1)


def logit_multiplier(scale: Tensor, reading: LogitScale) -> Tensor:
    """What the cosine is multiplied by, from the learned scale."""
    if reading == "raw":
        return scale
    # A straight-through clamp: the value is held at 100, but the gradient passes, so that a scale that went above can
    # come back.
    return (scale + (scale.clamp(max=math.log(100)) - scale).detach()).exp()


def contrastive_loss(source: Tensor, target: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE over a batch, a scalar.

    source, target: (B, ...), flattened and compared by cosine; logit_scale: what the cosine is multiplied by.
    The loss is log B for unrelated pairs and 0 for pairs that are told apart perfectly. With several processes each
    compares its own rows with the rows of all of them, so that the mean over processes is the loss of the whole batch.
    """
    a = F.normalize(source.flatten(1).float(), dim=1)
    b = F.normalize(target.flatten(1).float(), dim=1)
    every_a, every_b = collective.gathered_with_gradient(a), collective.gathered_with_gradient(b)
    labels = collective.rank() * len(a) + torch.arange(len(a), device=a.device)
    # Autocast would multiply in bfloat16, whose error the scale makes a hundred times as large. The meta device, which
    # sizes are counted on, has none.
    with torch.autocast(a.device.type if a.device.type != "meta" else "cpu", enabled=False):
        to_b, to_a = logit_scale.float() * a @ every_b.T, logit_scale.float() * b @ every_a.T
    return 0.5 * (F.cross_entropy(to_b, labels) + F.cross_entropy(to_a, labels))
