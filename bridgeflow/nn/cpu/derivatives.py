"""What the kernels share: a backward pass by hand that autograd can still derive again, and sums of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., tuple[Tensor | None, ...]]


def keep(ctx: Any, plain: Callable[..., Tensor], inputs: Sequence[Tensor | None], *computed: Tensor) -> None:
    """Saves for the backward pass: the tensors that a kernel was called with, in order, what it has computed, and the
    plain form of what it does with `inputs`."""
    ctx.save_for_backward(*inputs, *computed)
    ctx.plain, ctx.count = plain, len(inputs)


def by_hand(backward: Backward) -> Backward:
    """Decorates a kernel's `backward`. Where its gradients will be derived in turn (`create_graph=True`), those of the
    plain form are given instead, which autograd can derive."""

    @wraps(backward)
    def chosen(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return backward(ctx, *gradients)
        # Views of their own, so that these are partial derivatives: one input may be computed from another (shared
        # weights), a way that autograd follows itself.
        inputs: list[Any] = [None if own is None else own.view_as(own) for own in ctx.saved_tensors[: ctx.count]]
        # `needs_input_grad` may be longer: numbers that follow the tensors have no gradient.
        asked = [own for own, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
        found = iter(torch.autograd.grad(ctx.plain(*inputs), asked, gradients, create_graph=True, allow_unused=True))
        return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)

    return chosen


def layer_gradients(to_outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a linear layer's weight and bias, from that of its outputs (rows, outputs) and its inputs."""
    return to_outputs.t() @ inputs, to_outputs.sum(0, dtype=wide(to_outputs.dtype))


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32: half types lose too much between one elementwise step and the next."""
    return torch.promote_types(dtype, torch.float32)
