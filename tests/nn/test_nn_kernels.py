"""Gradients written by hand agree with numeric ones, also their own, and values with the plain forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from bridgeflow.nn import ops, plain
from bridgeflow.nn.cpu import attention, convolutions, mlps, norms, products

F64 = torch.float64


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts even for small layers."""
    monkeypatch.setattr(mlps, "CACHED", 64 * 8)
    monkeypatch.setattr(ops, "CPU_KERNELS", True)
    torch.manual_seed(0)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, requires_grad=True)


LAYERS = ((8, 4), (8,), (8, 4), (8,), (4, 8), (4,))
KERNELS: dict[str, tuple[Any, tuple[tuple[int, ...], ...], tuple[Any, ...]]] = {
    "gated MLP": (mlps.GatedMLP, ((2, 80, 4), *LAYERS), ()),
    "MLP": (mlps.MLP, ((2, 80, 4), *LAYERS[2:]), ()),
    "RMS norm": (norms.RMSNorm, ((2, 5, 6), (2, 1, 6)), ()),
    "RMS norm, one scale": (norms.RMSNorm, ((2, 5, 6), (1, 1, 6)), ()),
    "depthwise": (convolutions.Depthwise, ((2, 3, 6, 5), (3, 1, 3, 3), (3,)), ()),
    "product": (products.Product, ((2, 3, 4), (5, 4), (5,)), ()),
    **{
        f"{kernel.__name__}, {rows} and {others}": (kernel, ((2, 5, 6), (rows, 1, 6), (others, 1, 6)), (1e-5,))
        for kernel in (norms.LayerNorm, norms.LayerNormByRow)
        for rows in (1, 2)
        for others in (1, 2)
    },
    **{
        f"{kernel.__name__}, {count} tokens": (kernel, ((2, count, 12),), (2,))
        for kernel in (attention.SelfAttention, attention.SelfAttentionByRow)
        for count in (5, 8)
    },
}
"""Of each: the function, the shapes of its tensors, and what follows them."""


@pytest.mark.parametrize("name", KERNELS)
def test_gradients(name: str) -> None:
    kernel, shapes, more = KERNELS[name]
    assert gradcheck(lambda *own: kernel.apply(*own, *more), tuple(leaf(*shape) for shape in shapes))


@pytest.mark.parametrize("name", KERNELS)
def test_second_derivatives(name: str) -> None:
    kernel, shapes, more = KERNELS[name]
    few = tuple(leaf(*(min(size, 6) for size in shape)) for shape in shapes)
    if "MLP" in name:
        few = tuple(leaf(*(2 if size == 80 else size for size in shape)) for shape in shapes)
    assert gradgradcheck(lambda *own: kernel.apply(*own, *more), few)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_depthwise_weight_gradient_by_columns(size: int, width: int, layout: torch.memory_format) -> None:
    x, gradient = (torch.randn(2, 20, 9, width, dtype=F64).contiguous(memory_format=layout) for _ in range(2))
    weight = leaf(20, 1, size, size)
    F.conv2d(x, weight, padding=size // 2, groups=20).backward(gradient)
    for dtype, tolerance in ((F64, 1e-10), (torch.float32, 1e-4)):
        found = convolutions._depthwise_weight_gradient(x.to(dtype), gradient.to(dtype), size)
        assert found.shape == weight.shape
        assert (found - weight.grad).abs().max() < tolerance


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("outputs", [1, 4, 5])
def test_a_convolution_to_few_channels(size: int, outputs: int) -> None:
    layer = nn.Conv2d(6, outputs, size, padding=size // 2).to(F64)
    grid = (7, 4)
    assert gradcheck(lambda x, *_: ops.convolution(x, layer, grid), (leaf(2, 28, 6), *layer.parameters()))
    x = leaf(2, 28, 6)
    expected = layer(x.transpose(1, 2).unflatten(2, grid))
    torch.testing.assert_close(ops.convolution(x, layer, grid), expected)
    with torch.no_grad():
        torch.testing.assert_close(ops.convolution(x, layer, grid), expected)


def test_values_are_those_of_the_plain_forms() -> None:
    x, long = torch.randn(2, 80, 16), torch.randn(2, norms.LONG_ROW // 16, 16)
    gate, value, out = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
    convolution = nn.Conv2d(16, 16, 7, padding=3, groups=16)
    qkv = torch.randn(2, 9, 48)
    pairs = [
        (ops.gated_mlp(x, gate, value, out), out(F.gelu(gate(x)) * value(x))),
        (ops.mlp(x, gate, out), out(F.gelu(gate(x), approximate="tanh"))),
        (ops.depthwise(x.view(2, 16, 8, 10), convolution), convolution(x.view(2, 16, 8, 10))),
        (ops.self_attention(qkv, 4), plain.self_attention(qkv, 4)),
        (ops.rms_norm(x, torch.ones(1, 1, 16)), F.rms_norm(x, (16,))),
        (ops.layer_norm(x, 2 * torch.ones(1, 1, 16), torch.ones(1, 1, 16)), 2 * F.layer_norm(x, (16,)) + 1),
        (ops.layer_norm(long, 2 * torch.ones(1, 1, 16), torch.ones(2, 1, 16)), 2 * F.layer_norm(long, (16,)) + 1),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_a_norm_of_nothing_but_zeros_is_zero() -> None:
    x = torch.zeros(1, 3, 8, requires_grad=True)
    found = ops.rms_norm(x, torch.ones(1, 1, 8))
    found.sum().backward()
    assert found.abs().max() == 0
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["gated_mlp", "mlp", "depthwise", "self_attention"])
def test_products_follow_autocast_and_gradients_the_parameters(name: str) -> None:
    x = torch.randn(2, 80, 16, requires_grad=True)
    first, second, third = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
    convolution = nn.Conv2d(16, 16, 7, padding=3, groups=16)

    def run() -> Tensor:
        if name == "gated_mlp":
            return ops.gated_mlp(x, first, second, third)
        if name == "mlp":
            return ops.mlp(x, first, third)
        if name == "depthwise":
            return ops.depthwise(x.view(2, 16, 8, 10), convolution)
        return ops.self_attention(torch.cat([x, x, x], dim=-1), 4)

    exact = run()
    (expected,) = torch.autograd.grad(exact.square().sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        found = run()
    assert found.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(found.float().square().sum(), x)
    assert gradient.dtype == torch.float32
    assert (gradient - expected).norm() / expected.norm() < 0.03
    assert (found.float() - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("shape", [(0, 5, 16), (2, 0, 16)])
def test_of_nothing(shape: tuple[int, ...]) -> None:
    gate, value, out = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
    x = torch.randn(*shape, requires_grad=True)
    qkv = torch.cat([x, x, x], dim=-1)
    attended = ops.self_attention(qkv, 4), ops.self_attention(qkv.bfloat16(), 4)
    for found in (ops.gated_mlp(x, gate, value, out), ops.mlp(x, gate, out), *attended):
        assert found.shape == shape
        found.sum().backward()
    assert gate.weight.grad is not None
    assert gate.weight.grad.abs().max() == 0


def _block() -> nn.Module:
    """All of what a network is built of that has a kernel."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.gate, self.value = ops.Linear(8, 24), nn.Linear(8, 16), nn.Linear(8, 16)
            self.out, self.cells, self.head = (
                nn.Linear(16, 8),
                nn.Conv2d(8, 8, 3, padding=1, groups=8),
                nn.Conv2d(8, 2, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            scale = torch.ones(1, 1, 8)
            x = x + ops.self_attention(self.qkv(ops.layer_norm(x, scale, 0 * scale)), 2)
            x = x + ops.gated_mlp(ops.rms_norm(x, scale), self.gate, self.value, self.out)
            x = x + ops.mlp(x, self.gate, self.out)
            x = x + ops.depthwise(x.transpose(1, 2).unflatten(2, (2, 3)), self.cells).flatten(2).transpose(1, 2)
            return ops.convolution(x, self.head, (2, 3))

    return Block()


def test_transforms_of_functions_see_through() -> None:
    block, x, v = _block(), torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    step = 1e-3
    numeric = (block(x + step * v) - block(x - step * v)) / (2 * step)
    value, slope = torch.func.jvp(block, (x,), (v,))
    torch.testing.assert_close(value, block(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slope, numeric, atol=2e-3, rtol=2e-2)
    # The loss of an average velocity derives by the weights what is itself a derivative by the inputs.
    slope.square().sum().backward()
    weights = [own for name, own in block.named_parameters() if name.endswith("weight")]
    assert all(own.grad is not None and own.grad.isfinite().all() and own.grad.any() for own in weights)


def test_the_kernels_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = _block(), torch.randn(2, 6, 8)
    names: list[str] = []

    def run() -> tuple[Tensor, ...]:
        names[:] = []
        out = block(x)
        pending = [out.grad_fn]
        while pending:
            node = pending.pop()
            if node is not None:
                names.append(node.name())
                pending += [own for own, _ in node.next_functions]
        return out, *torch.autograd.grad(out.square().sum(), tuple(block.parameters()))

    ours = run()
    assert {"GatedMLPBackward", "MLPBackward", "RMSNormBackward", "DepthwiseBackward"} <= set(names)
    monkeypatch.setattr(ops, "CPU_KERNELS", False)
    torch.testing.assert_close(run(), ours, atol=1e-4, rtol=1e-4)
    assert not {"GatedMLPBackward", "MLPBackward", "RMSNormBackward", "DepthwiseBackward"} & set(names)


def test_second_derivatives_are_partial_where_a_weight_is_used_twice() -> None:
    """The second use's input depends on the weight, too: that way is counted once."""
    weight, x = torch.randn(8, 8, requires_grad=True), torch.randn(5, 8)
    found = []
    for function in (ops.linear, F.linear):
        out = function(function(x, weight), weight)
        (slope,) = torch.autograd.grad(out.square().sum(), weight, create_graph=True)
        found.append((slope.detach(), *torch.autograd.grad(slope.square().sum(), weight)))
    torch.testing.assert_close(*found, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("grad", [True, False])
def test_a_compiler_is_given_the_plain_forms_in_one_graph(grad: bool) -> None:
    block, x = _block(), torch.randn(2, 6, 8)
    seen: list[str] = []

    def backend(module: Any, inputs: Any) -> Any:
        seen.extend(str(node.target) for node in module.graph.nodes)
        return module

    with torch.set_grad_enabled(grad):
        found = torch.compile(block, backend=backend, fullgraph=True)(x)
        torch.testing.assert_close(found, block(x), atol=1e-5, rtol=1e-5)
    assert any("gelu" in name for name in seen)
    assert not [name for name in seen if "autograd_function" in name or "mkldnn" in name]
