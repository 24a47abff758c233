"""The operations that networks are built of, each in the form that is quickest where it runs.

Training on a CPU spends as long on passes over memory as on products: there the kernels of `nn.cpu` are taken, whose
backward passes are written by hand. Everything else takes the plain form: GPUs, inference, `torch.compile`, and
transforms of functions such as `jvp` (`nn.plain`). This file is the only one that chooses.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from bridgeflow.nn import plain
from bridgeflow.nn.cpu import attention, convolutions, mlps, norms, products
from bridgeflow.nn.cpu.derivatives import wide

CPU_KERNELS = os.environ.get("BRIDGEFLOW_CPU_KERNELS", "1") != "0"
"""False where `BRIDGEFLOW_CPU_KERNELS=0` is set, as to compare the kernels with what they stand for."""


def transformed() -> bool:
    """True inside a transform of functions: forward mode, or vmap, grad, jvp of `torch.func`. They know neither a
    backward pass written by hand nor fused attention."""
    # Neither has a public name in torch.
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def takes_cpu_kernels(x: Tensor) -> bool:
    """True where x is on a CPU and neither a compiler nor a transform has to see into the operation."""
    return CPU_KERNELS and x.device.type == "cpu" and not torch.compiler.is_compiling() and not transformed()


def takes_custom_backward(x: Tensor) -> bool:
    """True where a gradient will be asked for as well."""
    return torch.is_grad_enabled() and takes_cpu_kernels(x)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def gated_mlp(x: Tensor, gate: nn.Linear, value: nn.Linear, out: nn.Linear) -> Tensor:
    """out(GELU(gate x) * value x) for layers that have a bias each; x: (..., width)."""
    layers = (gate, value, out)
    if not takes_custom_backward(x):
        return plain.gated_mlp(x, *(own for layer in layers for own in (layer.weight, layer.bias)))
    dtype = product_dtype(x)
    return mlps.GatedMLP.apply(x.to(dtype), *(own for layer in layers for own in (layer.weight.to(dtype), layer.bias)))


def mlp(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """second(GELU(first x)), the GELU in its tanh form, for layers that have a bias each; x: (..., width)."""
    if not takes_custom_backward(x):
        return plain.mlp(x, first.weight, first.bias, second.weight, second.bias)
    dtype = product_dtype(x)
    return mlps.MLP.apply(x.to(dtype), first.weight.to(dtype), first.bias, second.weight.to(dtype), second.bias)


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """x / (rms(x) + 1e-8) * scale, in float32 at least; x: (B, N, width), scale: (B, 1, width), or (1, 1, width)."""
    x, scale = (own.to(wide(own.dtype)) for own in (x, scale))
    return norms.RMSNorm.apply(x, scale) if takes_custom_backward(x) else plain.rms_norm(x, scale)


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Layer norm times scale plus shift, in float32 at least; shapes as in `rms_norm`."""
    x, scale, shift = (own.to(wide(own.dtype)) for own in (x, scale, shift))
    if not takes_custom_backward(x):
        return plain.layer_norm(x, scale, shift, epsilon)
    kernel = norms.LayerNormByRow if x[:1].numel() >= norms.LONG_ROW else norms.LayerNorm
    return kernel.apply(x, scale, shift, epsilon)


def depthwise(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A convolution of each channel with its own (1, k, k) kernel, k odd, same size; x: (B, C, H, W). layer: with a
    bias and zeros around, without stride or dilation."""
    if not takes_custom_backward(x):
        return layer(x)
    return convolutions.Depthwise.apply(x.to(product_dtype(x)), layer.weight, layer.bias)


def convolution(x: Tensor, layer: nn.Conv2d, grid: tuple[int, int]) -> Tensor:
    """A convolution by kernels (k, k), k odd, with zeros around, without stride, dilation or groups.

    x: (B, H W, C), the cells of a grid (H, W) row by row. Gives (B, outputs, H, W), in training on a CPU in float32 at
    least.
    """
    if takes_custom_backward(x) and layer.out_channels <= convolutions.FEW:
        return convolutions.to_few_channels(x, layer, grid, linear)
    return layer(x.unflatten(1, grid).permute(0, 3, 1, 2))


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention over all tokens from queries, keys and values (B, N, 3 width); gives (B, N, width)."""
    if transformed():
        return plain.self_attention(qkv, heads)
    if not takes_custom_backward(qkv):
        query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    dtype = product_dtype(qkv)
    if dtype.itemsize < 4:
        return attention.SelfAttention.apply(qkv.to(dtype), heads)
    if heads * qkv.shape[1] ** 2 < attention.LONG_ROW:
        return plain.self_attention(qkv.to(dtype), heads)
    return attention.SelfAttentionByRow.apply(qkv.to(dtype), heads)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias; x: (..., inputs), weight: (outputs, inputs), bias: (outputs,)."""
    if not (takes_cpu_kernels(x) and products.by_onednn(x, weight, bias)) or torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    return products.Product.apply(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return linear(input, self.weight, self.bias)
