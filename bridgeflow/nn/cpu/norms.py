"""Norms whose scale and shift follow the batch, in float32."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bridgeflow.nn import plain
from bridgeflow.nn.cpu.derivatives import by_hand, keep

LONG_ROW = 2**16
"""Numbers of a row of the batch from which on the library's own norm of each row is quicker than passes over all."""


class RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        inverse = (
            torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + plain.RMS_EPSILON
        ).reciprocal()
        keep(ctx, plain.rms_norm, (x, scale), inverse)
        return (x * inverse).mul_(scale)

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, scale, inverse = ctx.saved_tensors
        product = gradient * x
        to_scale = _for_batch(inverse.transpose(1, 2) @ product, scale)
        # d rms / dx = x / (width rms). Exact would be 1 / (rms (rms + eps)^2) for inverse^3, the same unless rms is as
        # small as eps.
        pull = product @ scale.expand(len(x), -1, -1).transpose(1, 2)
        to_x = torch.mul(gradient, scale, out=product).mul_(inverse)
        return to_x.addcmul_(x, pull * inverse.pow(3), value=-1.0 / x.shape[-1]), to_scale


class LayerNormByRow(torch.autograd.Function):
    """The library's norm has one scale and shift for all that it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        result, moments = torch.empty_like(x), []
        vectors = (_vectors_by_row(own, x) for own in (scale, shift))
        for own, its_scale, its_shift, out in zip(x, *vectors, result, strict=True):
            normal, *its_moments = torch.native_layer_norm(own, x.shape[-1:], its_scale, its_shift, epsilon)
            out.copy_(normal)
            moments += its_moments
        keep(ctx, partial(plain.layer_norm, epsilon=epsilon), (x, scale, shift), *moments)
        return result

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, *moments = ctx.saved_tensors
        to_x, found = torch.empty_like(x), []
        vectors = (_vectors_by_row(own, x) for own in (scale, shift))
        backward = torch.ops.aten.native_layer_norm_backward
        of_rows = zip(x, gradients[0], moments[::2], moments[1::2], *vectors, to_x, strict=True)
        for own, gradient, mean, inverse, its_scale, its_shift, out in of_rows:
            to_own, *to_vectors = backward(
                gradient, own, x.shape[-1:], mean, inverse, its_scale, its_shift, [True, True, True]
            )
            out.copy_(to_own)
            found.append(to_vectors)
        to_scale, to_shift = (torch.stack(own)[:, None] for own in zip(*found, strict=True))
        return to_x, _for_batch(to_scale, scale), _for_batch(to_shift, shift), None


def _vectors_by_row(vectors: Tensor, x: Tensor) -> Tensor:
    """Of (B, 1, width), or (1, 1, width) for all, those of each row of x, (B, width)."""
    return vectors.expand(len(x), -1, -1)[:, 0]


class LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        normal, mean, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, epsilon)
        keep(ctx, partial(plain.layer_norm, epsilon=epsilon), (x, scale, shift), mean, inverse)
        return torch.addcmul(shift, normal, scale)

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, scale, shift, mean, inverse = ctx.saved_tensors
        normal = (x - mean).mul_(inverse)
        batch, count, width = normal.shape
        column = scale.expand(batch, -1, -1).transpose(1, 2)
        product = gradient * normal
        ones = normal.new_ones(batch, 1, count)
        to_scale, to_shift = _for_batch(ones @ product, scale), _for_batch(ones @ gradient, shift)
        mean, pull = (gradient @ column).div_(width), (product @ column).div_(width)
        to_x = torch.mul(gradient, scale, out=product).sub_(mean)
        return to_x.addcmul_(normal, pull, value=-1).mul_(inverse), to_scale, to_shift, None


def _for_batch(gradient: Tensor, like: Tensor) -> Tensor:
    """Of each row, or summed where one vector served all rows."""
    return gradient if like.shape[0] == gradient.shape[0] else gradient.sum(0, keepdim=True)
