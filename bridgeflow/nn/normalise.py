"""Root-mean-square normalisation with a scale of its own for each row of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-8
"""Added to the root mean square itself, not under the root."""


class _RMSNorm(torch.autograd.Function):
    """x / (rms(x) + eps) * scale, in as few passes over memory as its gradient allows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        inverse = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + EPSILON).reciprocal()
        ctx.save_for_backward(x, scale, inverse)
        return (x * inverse).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        x, scale, inverse = ctx.saved_tensors
        product = gradient * x
        to_scale = torch.matmul(inverse.transpose(1, 2), product)
        if scale.shape[0] != x.shape[0]:
            to_scale = to_scale.sum(0, keepdim=True)
        # d rms / dx = x / (width rms), and rms = 1 / inverse up to epsilon.
        pull = torch.matmul(product, scale.transpose(1, 2))
        to_x = (gradient * scale).mul_(inverse)
        return to_x.addcmul_(x, pull * inverse.pow(3), value=-1.0 / x.shape[-1]), to_scale


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """x: (B, N, width). scale: (B, 1, width), or (1, 1, width) for all rows. Computed and returned in float32."""
    return _RMSNorm.apply(x.float(), scale.float())
