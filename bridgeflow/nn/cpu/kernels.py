"""Forms of their own for training on a CPU, where passes over memory cost as much as products: most have their
gradients written out by hand.

Each has a plain form beside it, of the same value, that other devices and inference take.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bridgeflow.nn.cpu.products import affine, linear


def trains_on_cpu(x: Tensor) -> bool:
    """True where a gradient will be asked for on a CPU, and no compiler writes it."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def product_type(x: Tensor) -> torch.dtype:
    """The type of matrix products: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


# -- gated MLP -------------------------------------------------------------------------------------------


def gated_mlp(x: Tensor, gate: nn.Linear, value: nn.Linear, out: nn.Linear) -> Tensor:
    """out(GELU(gate x) * value x) for linear layers gate, value and out, each with a bias; x: (..., width)."""
    if not trains_on_cpu(x):
        return out(F.gelu(gate(x)) * value(x))
    return _GatedMLP.apply(x, gate.weight, gate.bias, value.weight, value.bias, out.weight, out.bias, product_type(x))


class _GatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        *parameters, dtype = rest
        gate_w, gate_b, value_w, value_b, out_w, out_b = (p.to(dtype) for p in parameters)
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1]).to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            gate, value = affine(rows, gate_w, gate_b), affine(rows, value_w, value_b)
            active = F.gelu(gate)
            inner = active * value
            # With the slope kept too, the backward pass has nothing to compute again.
            slope = torch.ops.aten.gelu_backward(value, gate)
            result = affine(inner, out_w, out_b)
        ctx.save_for_backward(rows, gate_w, value_w, out_w, active, slope, inner)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.parameter_types = [p.dtype for p in parameters]
        return result.view(*x.shape[:-1], result.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, gate_w, value_w, out_w, active, slope, inner = ctx.saved_tensors
        gradient = gradients[0].reshape(len(rows), gradients[0].shape[-1]).to(rows.dtype)
        to_inner = affine(gradient, out_w.t())
        to_value = to_inner * active
        to_gate = to_inner.mul_(slope)
        to_rows = affine(to_gate, gate_w.t()).add_(affine(to_value, value_w.t()))
        found = (
            *_layer_gradients(to_gate, rows),
            *_layer_gradients(to_value, rows),
            *_layer_gradients(gradient, inner),
        )
        typed = (g.to(own) for g, own in zip(found, ctx.parameter_types, strict=True))
        return to_rows.view(ctx.shape).to(ctx.dtype), *typed, None


# -- MLP -------------------------------------------------------------------------------------------------

TANH_GELU = (2 * math.sqrt(2 / math.pi), 0.044715)
"""c and a of GELU's tanh form, x sigmoid(c (x + a x^3))."""


def mlp(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """second(GELU(first x)), the GELU in its tanh form, for linear layers first and second, each with a bias; x: (...,
    width)."""
    if not trains_on_cpu(x):
        return second(F.gelu(first(x), approximate="tanh"))
    return _MLP.apply(x, first.weight, first.bias, second.weight, second.bias, product_type(x))


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        *parameters, dtype = rest
        first_w, first_b, second_w, second_b = (p.to(dtype) for p in parameters)
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1]).to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            active, slope = _tanh_gelu(affine(rows, first_w, first_b))
            result = affine(active, second_w, second_b)
        ctx.save_for_backward(rows, first_w, second_w, active, slope)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.parameter_types = [p.dtype for p in parameters]
        return result.view(*x.shape[:-1], result.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, first_w, second_w, active, slope = ctx.saved_tensors
        gradient = gradients[0].reshape(len(rows), gradients[0].shape[-1]).to(rows.dtype)
        to_hidden = affine(gradient, second_w.t()).mul_(slope)
        found = (*_layer_gradients(to_hidden, rows), *_layer_gradients(gradient, active))
        typed = (g.to(own) for g, own in zip(found, ctx.parameter_types, strict=True))
        return affine(to_hidden, first_w.t()).view(ctx.shape).to(ctx.dtype), *typed, None


def _layer_gradients(to_outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a linear layer's weight and bias, from that of its outputs (rows, outputs) and its inputs."""
    return to_outputs.t() @ inputs, to_outputs.sum(0, dtype=_wide(to_outputs.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32: half types lose too much between one elementwise step and the next."""
    return torch.promote_types(dtype, torch.float32)


CACHED = 2**18
"""Numbers that are worked on together, step after step, so that they stay in a core's own cache."""


def _tanh_gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU(x) = x s with s = sigmoid(c (x + a x^3)), and its derivative, both of the type of x; x: (rows, width)."""
    active, slope = torch.empty_like(x), torch.empty_like(x)
    c, a = TANH_GELU
    for own, out, rise in zip(
        *(whole.split(max(64, CACHED // x.shape[1])) for whole in (x, active, slope)), strict=True
    ):
        wide = own.to(_wide(own.dtype))
        share = torch.addcmul(wide.new_tensor(c), wide, wide, value=a * c).mul_(wide).sigmoid_()
        acted = wide * share
        out.copy_(acted)
        # s + x s (1 - s) c (1 + 3 a x^2)
        steep = torch.addcmul(wide.new_tensor(c), wide, wide, value=3 * a * c)
        rise.copy_(share.addcmul_(steep, acted.addcmul(acted, share, value=-1)))
    return active, slope


# -- norms whose scale and shift follow the batch --------------------------------------------------------

EPSILON = 1e-8
"""Added to the root mean square itself, not under the root."""


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """x / (rms(x) + 1e-8) * scale, in float32; x: (B, N, width), scale: (B, 1, width), or (1, 1, width) for all."""
    return _RMSNorm.apply(x.float(), scale.float())


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        inverse = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + EPSILON).reciprocal()
        ctx.save_for_backward(x, scale, inverse)
        return (x * inverse).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        x, scale, inverse = ctx.saved_tensors
        product = gradient * x
        to_scale = _for_batch(inverse.transpose(1, 2) @ product, scale)
        # d rms / dx = x / (width rms), and rms = 1 / inverse up to epsilon.
        pull = product @ scale.expand(len(x), -1, -1).transpose(1, 2)
        to_x = torch.mul(gradient, scale, out=product).mul_(inverse)
        return to_x.addcmul_(x, pull * inverse.pow(3), value=-1.0 / x.shape[-1]), to_scale


LONG_ROW = 2**16
"""Numbers of a row of the batch from which on the library's own norm of each row is quicker than passes over all."""


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Layer norm times scale plus shift, in float32; shapes as in `rms_norm`."""
    kernel = _LayerNormByRow if trains_on_cpu(x) and x[:1].numel() >= LONG_ROW else _LayerNorm
    return kernel.apply(x.float(), scale.float(), shift.float(), epsilon)


class _LayerNormByRow(torch.autograd.Function):
    """The library's norm has one scale and shift for all that it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        result, moments = torch.empty_like(x), []
        vectors = (_vectors_by_row(own, x) for own in (scale, shift))
        for own, its_scale, its_shift, out in zip(x, *vectors, result, strict=True):
            normal, *its_moments = torch.native_layer_norm(own, x.shape[-1:], its_scale, its_shift, epsilon)
            out.copy_(normal)
            moments += its_moments
        ctx.save_for_backward(x, scale, shift, *moments)
        return result

    @staticmethod
    @once_differentiable
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


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        normal, _, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, epsilon)
        ctx.save_for_backward(normal, scale, shift, inverse)
        return torch.addcmul(shift, normal, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        normal, scale, shift, inverse = ctx.saved_tensors
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


# -- depthwise convolution -------------------------------------------------------------------------------


def depthwise(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A convolution of each channel with its own (1, k, k) kernel, k odd, same size; x: (B, C, H, W)."""
    if not trains_on_cpu(x):
        return layer(x)
    return _Depthwise.apply(x.to(product_type(x)), layer.weight, layer.bias)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_type = bias.dtype
        padding, groups = weight.shape[-1] // 2, weight.shape[0]
        return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=padding, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        padding, groups = weight.shape[-1] // 2, weight.shape[0]
        gradient = gradient.to(x.dtype)
        to_x = F.conv2d(gradient, weight.to(x.dtype).flip(2, 3), padding=padding, groups=groups)
        to_weight = _depthwise_weight_gradient(x, gradient, weight.shape[-1])
        to_bias = gradient.sum((0, 2, 3), dtype=_wide(gradient.dtype))
        return to_x, to_weight.to(weight.dtype), to_bias.to(ctx.bias_type)


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
        # The library pads both sides alike: a piece off the centre gets a padded or cropped copy of its own.
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


# -- convolution to few channels -------------------------------------------------------------------------

FEW = 4
"""Output channels up to which a convolution leaves most lanes of the processor's vectors empty."""


def convolution(x: Tensor, layer: nn.Conv2d, grid: tuple[int, int]) -> Tensor:
    """A convolution by kernels (k, k), k odd, with zeros around, without stride, dilation or groups.

    x: (B, H W, C), the cells of a grid (H, W) row by row. Gives (B, outputs, H, W), in training on a CPU in float32 at
    least.

    Where there are few outputs, one product gives what each cell adds to each of its neighbours, which is then summed.
    """
    if not trains_on_cpu(x) or layer.out_channels > FEW:
        return layer(x.unflatten(1, grid).permute(0, 3, 1, 2))
    size = layer.kernel_size[0]
    to_neighbours = layer.weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)
    shares = linear(x, to_neighbours).transpose(1, 2)
    result = F.fold(shares.to(_wide(shares.dtype)), grid, size, padding=size // 2)
    return result if layer.bias is None else result + layer.bias[:, None, None]


# -- attention -------------------------------------------------------------------------------------------


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention over all tokens from queries, keys and values (B, N, 3 width); gives (B, N, width)."""
    dtype = product_type(qkv)
    kernel = _SelfAttention if dtype.itemsize < 4 else _SelfAttentionByRow
    return kernel.apply(qkv.to(dtype), heads)


class _SelfAttentionByRow(torch.autograd.Function):
    """Row by row of the batch, so that the scores of its heads stay in a core's own cache."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        batch, count, width = qkv.shape
        seen, unread = qkv.new_empty(batch, count, width // 3), qkv.new_empty(1)
        shares = qkv.new_empty(batch, heads, count, count)
        scores = qkv.new_empty(heads, count, count)
        scale = (width // 3 // heads) ** -0.5
        with torch.autocast(qkv.device.type, enabled=False):
            for own, share, result in zip(_by_head(qkv, 3, heads), shares, _by_head(seen, 1, heads), strict=True):
                query, key, value = own
                torch.baddbmm(unread, query, key.transpose(1, 2), beta=0, alpha=scale, out=scores)
                torch.softmax(scores, -1, out=share)
                torch.bmm(share, value, out=result[0])
        ctx.save_for_backward(qkv, shares)
        ctx.heads, ctx.scale = heads, scale
        return seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        qkv, shares = ctx.saved_tensors
        to_qkv, unread = torch.empty_like(qkv), qkv.new_empty(1)
        to_scores = shares.new_empty(shares.shape[1:])
        of_rows = (_by_head(x, n, ctx.heads) for x, n in ((qkv, 3), (gradients[0], 1), (to_qkv, 3)))
        for own, to_seen, result, share in zip(*of_rows, shares, strict=True):
            query, key, value = own
            # The shares come from memory: read once in order, they are at hand for the product that follows.
            to_share = torch.bmm(to_seen[0], value.transpose(1, 2), out=to_scores)
            torch.ops.aten._softmax_backward_data.out(to_share, share, -1, share.dtype, grad_input=to_scores)
            torch.bmm(share.transpose(1, 2), to_seen[0], out=result[2])
            torch.baddbmm(unread, to_scores, key, beta=0, alpha=ctx.scale, out=result[0])
            torch.baddbmm(unread, to_scores.transpose(1, 2), query, beta=0, alpha=ctx.scale, out=result[1])
        return to_qkv, None


def _by_head(x: Tensor, parts: int, heads: int) -> Tensor:
    """(B, N, parts heads d) as (B, parts, heads, N, d), a view."""
    return x.unflatten(-1, (parts, heads, -1)).permute(0, 2, 3, 1, 4)


class _SelfAttention(torch.autograd.Function):
    """All rows at once, for half types: tokens are padded to a multiple of 8, which their products want."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        batch, count, width = qkv.shape
        features = width // 3 // heads
        padded = -(-count // 8) * 8
        parts = qkv.new_empty(3, batch, heads, padded, features)
        parts[..., :count, :] = qkv.view(batch, count, 3, heads, features).permute(2, 0, 3, 1, 4)
        parts[..., count:, :] = 0
        query, key, value = parts.flatten(1, 2)
        with torch.autocast(qkv.device.type, enabled=False):
            scores = torch.baddbmm(qkv.new_empty(1), query, key.transpose(1, 2), beta=0, alpha=features**-0.5)
            scores[..., count:] = float("-inf")
            shares = scores.softmax(-1)
            seen = torch.bmm(shares, value)
        ctx.save_for_backward(query, key, value, shares)
        ctx.shape = (batch, count, heads, features)
        return seen.view(batch, heads, padded, features)[:, :, :count].transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        query, key, value, shares = ctx.saved_tensors
        batch, count, heads, features = ctx.shape
        to_seen = torch.empty_like(query).view(batch, heads, query.shape[1], features)
        to_seen[:, :, :count] = gradients[0].view(batch, count, heads, features).transpose(1, 2)
        to_seen[:, :, count:] = 0
        to_seen = to_seen.flatten(0, 1)
        to_parts = query.new_empty(3, *query.shape)
        torch.bmm(shares.transpose(1, 2), to_seen, out=to_parts[2])
        to_shares = torch.bmm(to_seen, value.transpose(1, 2))
        to_scores = torch.ops.aten._softmax_backward_data(to_shares, shares, -1, shares.dtype).mul_(features**-0.5)
        torch.bmm(to_scores, key, out=to_parts[0])
        torch.bmm(to_scores.transpose(1, 2), query, out=to_parts[1])
        packed = to_parts.view(3, batch, heads, query.shape[1], features)[..., :count, :].permute(1, 3, 0, 2, 4)
        return packed.reshape(batch, count, 3 * heads * features), None
