"""The terms of the training loss, each returned per row so that reductions are named by the caller."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.settings import Settings

Reduction = Literal["sum", "mean"]


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over all axes but the first, (B, ...) -> (B,), of the values where `mask` is True.

    mask: bool, (B, L) or (B, 1, *sizes), broadcast over the axes it lacks. A row with nothing real gives 0.
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


class KLSettings(Settings):
    """Pull of the variational source towards N(0, 1)."""

    weight: float = Field(default=1e-2, ge=0)
    """Weight of the term in the total loss, after the reduction."""
    form: Literal["standard", "free_mean"] = "free_mean"
    """`standard`: KL(N(mu, sigma^2) || N(0, 1)). `free_mean`: mu^2 becomes (0.3 mu)^6, which leaves the mean
    nearly free up to |mu| = 3 and holds sigma near 1 (the form of the published code)."""
    reduction: Reduction = "sum"
    """Over the latent's dimensions. The weight means nothing without it."""


def kl_loss(mu: Tensor, logvar: Tensor, form: str, reduction: str) -> Tensor:
    """KL per row, (B,), from mu and logvar of shape (B, ...): 0.5 reduce(m(mu) + exp(logvar) - 1 - logvar)."""
    mu, logvar = mu.float(), logvar.float()
    mean_term = mu.square() if form == "standard" else (0.3 * mu).pow(6)
    per_dimension = 0.5 * (mean_term + logvar.exp() - 1 - logvar).flatten(1)
    return per_dimension.sum(1) if reduction == "sum" else per_dimension.mean(1)


class EncodingSettings(Settings):
    """What keeps the learned source informative (CrossFlow, section 3.2 and table 3b)."""

    kind: Literal["none", "reconstruction", "intra", "cross"] = "none"
    """`reconstruction`: the source's own features from z0; `intra`: contrast with the source's features;
    `cross`: contrast with the target's latent, the best in the paper."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the term in the total loss; the term is a mean over the batch (and over real features)."""
    temperature: float = Field(default=0.07, ge=0.01)
    """Starting temperature of the contrast; it is learned, and never falls below 0.01."""


def contrastive_loss(source: Tensor, target: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE over a batch, a scalar.

    source, target: (B, ...), flattened and compared by cosine; logit_scale: what the cosine is multiplied by.
    The loss is log B for unrelated pairs and 0 for perfectly told ones.
    """
    a = F.normalize(source.flatten(1).float(), dim=1)
    b = F.normalize(target.flatten(1).float(), dim=1)
    logits = logit_scale * a @ b.T
    labels = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))
