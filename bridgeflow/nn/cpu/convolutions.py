"""Convolutions that the library is slow at: of each channel by itself, and to few channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.nn import plain
from bridgeflow.nn.cpu.derivatives import by_hand, keep, wide

FEW = 4
"""Output channels up to which a convolution leaves most lanes of the processor's vectors empty."""


def to_few_channels(x: Tensor, layer: nn.Conv2d, grid: tuple[int, int], linear: Callable[..., Tensor]) -> Tensor:
    """A convolution of cells (B, H W, C): one product gives what each cell adds to each of its neighbours, which is
    then summed. Gives (B, outputs, H, W)."""
    size = layer.kernel_size[0]
    to_neighbours = layer.weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)
    shares = linear(x, to_neighbours).transpose(1, 2)
    result = F.fold(shares.to(wide(shares.dtype)), grid, size, padding=size // 2)
    return result if layer.bias is None else result + layer.bias[:, None, None]


class Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        keep(ctx, plain.depthwise, (x, weight, bias))
        return plain.depthwise(x, weight, bias)

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, bias = ctx.saved_tensors
        padding, groups = weight.shape[-1] // 2, weight.shape[0]
        gradient = gradient.to(x.dtype)
        to_x = F.conv2d(gradient, weight.to(x.dtype).flip(2, 3), padding=padding, groups=groups)
        to_weight = _depthwise_weight_gradient(x, gradient, weight.shape[-1])
        to_bias = gradient.sum((0, 2, 3), dtype=wide(gradient.dtype))
        return to_x, to_weight.to(weight.dtype), to_bias.to(bias.dtype)


COLUMNS = 3
"""Columns of a depthwise kernel whose gradient the library finds quickly; wider ones take twenty times as long."""


def _depthwise_weight_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """(C, 1, size, size), a few columns of the kernel at a time."""
    channels, pad = x.shape[1], size // 2
    # A grid narrower than the kernel is quick in one piece.
    starts = _first_columns(size) if size <= x.shape[3] else [0]
    found = []
    for first, after in zip(starts, [*starts[1:], size], strict=True):
        left, right = pad - first, after - 1 - pad
        # oneDNN pads both sides alike: a piece off the centre gets a copy of its own, padded, or cropped where left or
        # right is negative.
        seen, padding = (x, left) if left == right else (F.pad(x, (left, right)), 0)
        found.append(
            torch.ops.aten.convolution_backward(
                gradient,
                seen,
                x.new_empty(channels, 1, size, after - first),
                None,
                (1, 1),
                (pad, padding),
                (1, 1),
                False,
                (0, 0),
                channels,
                (False, True, False),
            )[1]
        )
    return torch.cat(found, dim=-1)


def _first_columns(size: int) -> list[int]:
    """Where pieces of at most `COLUMNS` columns of a kernel begin, one of them in its middle."""
    if size <= COLUMNS:
        return [0]
    middle = (size - COLUMNS) // 2
    return [*range(0, middle, COLUMNS), *range(middle, size, COLUMNS)]
