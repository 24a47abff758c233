"""Products of linear layers, by the quickest library that is there.

In float32 on a CPU torch multiplies by MKL, which takes narrow vectors on other processors than its maker's: there
oneDNN, which is part of torch too, is a tenth quicker.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.nn import plain
from bridgeflow.nn.cpu.derivatives import by_hand, keep

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `affine` multiplies these by oneDNN, which checks nothing: what does not fit is left to torch."""
    return (
        _ONEDNN
        and all(own.dtype == torch.float32 and own.device.type == "cpu" for own in (x, weight))
        and x.shape[-1] == weight.shape[1]
        and x.numel() > 0
        and (bias is None or (bias.dtype == x.dtype and bias.device == x.device and bias.shape == weight.shape[:1]))
        and bool(torch.backends.mkldnn.enabled)
    )


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias without a gradient; x: (rows, inputs), weight: (outputs, inputs), bias: (outputs,)."""
    if not by_onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    # Rows or columns with gaps between them fall to a reference many times as slow.
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


class Product(torch.autograd.Function):
    """`plain.linear`, for what `by_onednn` takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        keep(ctx, plain.linear, (x, weight, bias))
        return affine(rows, weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _ = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        gradient = gradients[0].reshape(len(rows), -1)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            affine(gradient, weight.t()).view(x.shape) if needs_x else None,
            gradient.t() @ rows if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )
