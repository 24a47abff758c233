"""The operations of the networks as they are defined, in torch's own terms.

Every device, compiler and transform takes these, and derives them as often as it likes; `ops` has the quicker forms for
training on a CPU beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RMS_EPSILON = 1e-8
"""Added to the root mean square itself, not under the root."""


def gated_mlp(
    x: Tensor, gate: Tensor, gate_bias: Tensor, value: Tensor, value_bias: Tensor, out: Tensor, out_bias: Tensor
) -> Tensor:
    """out(GELU(gate x) * value x) with weights (outputs, inputs) and biases of three layers; x: (..., width)."""
    return linear(F.gelu(linear(x, gate, gate_bias)) * linear(x, value, value_bias), out, out_bias)


def mlp(x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> Tensor:
    """second(GELU(first x)), the GELU in its tanh form; x: (..., width)."""
    return linear(F.gelu(linear(x, first, first_bias), approximate="tanh"), second, second_bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias; x: (..., inputs), weight: (outputs, inputs). A bias of a wider dtype takes that of x."""
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """x / (rms(x) + 1e-8) * scale; x: (B, N, width), scale: (B, 1, width), or (1, 1, width) for all."""
    rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
    return x / (rms + RMS_EPSILON) * scale


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    """Layer norm times scale plus shift; shapes as in `rms_norm`."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=epsilon), scale)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of each channel with its own kernel; x: (B, C, H, W), weight: (C, 1, k, k), k odd; same size."""
    return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=weight.shape[-1] // 2, groups=weight.shape[0])


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention over all tokens from queries, keys and values (B, N, 3 width); gives (B, N, width)."""
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scale = query.shape[-1] ** -0.5
    shares = ((query * scale) @ key.transpose(-2, -1)).softmax(-1)
    return (shares.to(value.dtype) @ value).transpose(1, 2).flatten(2)
