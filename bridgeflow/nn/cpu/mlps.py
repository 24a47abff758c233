"""MLPs that keep the value and the slope of their non-linearity, so that the backward pass computes nothing again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.nn import plain
from bridgeflow.nn.cpu.derivatives import by_hand, keep, layer_gradients, wide
from bridgeflow.nn.cpu.products import affine

TANH_GELU = (2 * math.sqrt(2 / math.pi), 0.044715)
"""c and a of GELU's tanh form, x sigmoid(c (x + a x^3))."""
CACHED = 2**18
"""Numbers that are worked on together, step after step, so that they stay in a core's own cache: 1 MiB of float32."""


class GatedMLP(torch.autograd.Function):
    """`plain.gated_mlp`. Inputs and weights have the dtype of the products; biases may be wider."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """See `plain.gated_mlp` for the inputs."""
        x, gate_w, gate_b, value_w, value_b, out_w, out_b = inputs
        rows = _rows(x)
        with torch.autocast(x.device.type, enabled=False):
            gate, value = affine(rows, gate_w, gate_b.to(x.dtype)), affine(rows, value_w, value_b.to(x.dtype))
            active = F.gelu(gate)
            inner = active * value
            # value * GELU'(gate), the derivative of `inner` by `gate`.
            slope = torch.ops.aten.gelu_backward(value, gate)
            result = affine(inner, out_w, out_b.to(x.dtype))
        keep(ctx, plain.gated_mlp, inputs, active, slope, inner)
        return result.view(*x.shape[:-1], result.shape[1])

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs, in their order."""
        x, gate_w, _, value_w, _, out_w, _, active, slope, inner = ctx.saved_tensors
        rows = _rows(x)
        gradient = gradients[0].reshape(len(rows), gradients[0].shape[-1])
        to_inner = affine(gradient, out_w.t())
        to_value = to_inner * active
        to_gate = to_inner.mul_(slope)
        to_rows = affine(to_gate, gate_w.t()).add_(affine(to_value, value_w.t()))
        return (
            to_rows.view(x.shape),
            *layer_gradients(to_gate, rows),
            *layer_gradients(to_value, rows),
            *layer_gradients(gradient, inner),
        )


class MLP(torch.autograd.Function):
    """`plain.mlp`; dtypes as in `GatedMLP`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """See `plain.mlp` for the inputs."""
        x, first_w, first_b, second_w, second_b = inputs
        with torch.autocast(x.device.type, enabled=False):
            active, slope = _tanh_gelu(affine(_rows(x), first_w, first_b.to(x.dtype)))
            result = affine(active, second_w, second_b.to(x.dtype))
        keep(ctx, plain.mlp, inputs, active, slope)
        return result.view(*x.shape[:-1], result.shape[1])

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs, in their order."""
        x, first_w, _, second_w, _, active, slope = ctx.saved_tensors
        rows = _rows(x)
        gradient = gradients[0].reshape(len(rows), gradients[0].shape[-1])
        to_hidden = affine(gradient, second_w.t()).mul_(slope)
        to_rows = affine(to_hidden, first_w.t())
        return to_rows.view(x.shape), *layer_gradients(to_hidden, rows), *layer_gradients(gradient, active)


def _rows(x: Tensor) -> Tensor:
    """(..., width) as (rows, width), also where there are none."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def _tanh_gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU(x) = x s with s = sigmoid(c (x + a x^3)), and its derivative, both of the type of x; x: (rows, width)."""
    active, slope = torch.empty_like(x), torch.empty_like(x)
    c, a = TANH_GELU
    for own, out, rise in zip(
        *(whole.split(max(64, CACHED // x.shape[1])) for whole in (x, active, slope)), strict=True
    ):
        part = own.to(wide(own.dtype))
        share = torch.addcmul(part.new_tensor(c), part, part, value=a * c).mul_(part).sigmoid_()
        acted = part * share
        out.copy_(acted)
        # s + x s (1 - s) c (1 + 3 a x^2)
        steep = torch.addcmul(part.new_tensor(c), part, part, value=3 * a * c)
        rise.copy_(share.addcmul_(steep, acted.addcmul(acted, share, value=-1)))
    return active, slope
