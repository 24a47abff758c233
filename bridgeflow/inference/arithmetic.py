"""Arithmetic with the states z0 that flows start from: sums, differences and the way between two.

Source: CrossFlow (arXiv 2412.15213), section 4. It works because the flow starts from the source itself: a model
whose flow starts from noise has nothing to add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow.nn.encoded import Encoded


@dataclass(frozen=True)
class Mixture:
    """z = w_1 z_1 + ... + w_K z_K of the z0 of K terms. Where `standardised`, it is brought back to a usual scale:
    to mean 0 and standard deviation 1 for a variational source, to a weighted mean for any other."""

    weights: tuple[float, ...] = (1.0,)
    standardised: bool = False


PLAIN = Mixture()
"""The z0 of one source as it is."""


def sums(plus: int, minus: int) -> Mixture:
    """z_a + the z0 of `plus` terms - the z0 of `minus` terms, standardised."""
    return Mixture((1.0, *[1.0] * plus, *[-1.0] * minus), standardised=True)


def between(a: float) -> Mixture:
    """(1 - a) z_a + a z_b, on a straight line and as it comes."""
    return Mixture((1 - a, a))


def mix(terms: Sequence[Encoded], mixtures: Sequence[Mixture]) -> Encoded:
    """What flows start from, one mixture of K weights for each of B rows of the K terms.

    Sums are taken in float64 with the first term last, so that a + b - b is a to the last bit. Where the network
    attends to the source too, its tokens are mixed place by place. Raises BridgeflowError where the flow starts from
    noise alone, or where a row to be standardised is constant.
    """
    first = terms[0]
    if all(mixture == PLAIN for mixture in mixtures):
        return first
    if first.context is not None and first.mu is None:
        raise BridgeflowError(
            "this model's flow starts from noise (source_encoder.name=noise), so that there is no source in it to add "
            "to or to interpolate: use a model with another source encoder."
        )
    mixed, weights = _weighted([term.z0 for term in terms], mixtures)
    if mixtures[0].standardised:
        if first.logvar is not None:
            _refuse_constants(mixed)
            mixed = standardise(mixed)
        else:
            _refuse_nothing(mixed, weights)
            mixed = _averaged(mixed, weights)
    context, real = _mixed_context([(term.context, term.context_mask) for term in terms], mixtures)
    found = replace(first, z0=mixed.to(first.z0.device, first.z0.dtype), context=context, context_mask=real)
    # A sum is one of sources: the conditions stay those of the first. On the way between two they change with it.
    return found if mixtures[0].standardised else _between_conditions(found, terms, mixtures)


def _between_conditions(found: Encoded, terms: Sequence[Encoded], mixtures: Sequence[Mixture]) -> Encoded:
    conditions, real = _mixed_context([(term.conditions, term.conditions_mask) for term in terms], mixtures)
    added = None
    if found.added is not None:
        mixed, _ = _weighted([term.added for term in terms if term.added is not None], mixtures)
        added = mixed.to(found.added.device, found.added.dtype)
    return replace(found, conditions=conditions, conditions_mask=real, added=added)


def _weighted(values: Sequence[Tensor], mixtures: Sequence[Mixture]) -> tuple[Tensor, Tensor]:
    """The sums (B, ...) in float64 on the CPU, and the weights (B, K, 1, ...) that broadcast over the K values."""
    held = [value.detach().to("cpu", torch.float64) for value in values]
    weights = torch.tensor([mixture.weights for mixture in mixtures], dtype=torch.float64)
    weights = weights.view(*weights.shape, *[1] * (held[0].ndim - 1))
    others = sum((weights[:, k] * held[k] for k in range(1, len(held))), torch.zeros_like(held[0]))
    return weights[:, 0] * held[0] + others, weights


def _mixed_context(
    parts: Sequence[tuple[Tensor | None, Tensor | None]], mixtures: Sequence[Mixture]
) -> tuple[Tensor | None, Tensor | None]:
    """Tokens with their masks, place by place; a place is real where it is in a term that counts."""
    contexts, masks = [tokens for tokens, _ in parts], [mask for _, mask in parts]
    first, real = contexts[0], masks[0]
    if first is None:
        return None, None
    values = [
        context if mask is None else context * mask.unsqueeze(-1)
        for context, mask in zip(contexts, masks, strict=True)
        if context is not None
    ]
    mixed, weights = _weighted(values, mixtures)
    if mixtures[0].standardised:
        mixed = _averaged(mixed, weights)
    if real is not None:
        counts = torch.tensor([mixture.weights for mixture in mixtures]).to(real.device) != 0
        held = torch.stack([mask for mask in masks if mask is not None], dim=1)
        real = (held & counts.unsqueeze(-1)).any(1)
    return mixed.to(first.device, first.dtype), real


def standardise(z: Tensor) -> Tensor:
    """Each row of z (B, ...) at mean 0 and standard deviation 1 over all its elements, as a variational source has
    them. Mean and deviation are one number for a row, not for a dimension, and do not look at the batch."""
    axes = tuple(range(1, z.ndim))
    return (z - z.mean(axes, keepdim=True)) / z.std(axes, keepdim=True)


def _averaged(z: Tensor, weights: Tensor) -> Tensor:
    """Sums divided by the sum of their weights where that is above 0. A source that is held to no distribution has a
    scale that depends on the input, which a weighted mean keeps: a + b - c stays, a + b becomes (a + b) / 2; and what
    is drawn alike for every term counts once."""
    total = weights.sum(1)
    return z / torch.where(total > 0, total, torch.ones_like(total))


CANCELLED = "these terms cancel out and leave nothing to start from: add or subtract other ones."


def _refuse_constants(z: Tensor) -> None:
    if not bool((z.flatten(1).std(1) > 0).all()):
        raise BridgeflowError(CANCELLED)


def _refuse_nothing(z: Tensor, weights: Tensor) -> None:
    """A constant is a source like any other (a white picture), unless as much was taken away as was there."""
    if bool(((z.flatten(1) == 0).all(1) & (weights.sum(1).flatten() <= 0)).any()):
        raise BridgeflowError(CANCELLED)
