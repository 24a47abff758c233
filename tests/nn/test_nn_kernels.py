"""Gradients written by hand agree with numeric ones, and values with the plain forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from bridgeflow.nn.cpu import kernels

F64 = torch.float64


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts even for small layers."""
    monkeypatch.setattr(kernels, "CACHED", 64 * 8)
    torch.manual_seed(0)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, requires_grad=True)


def test_gradients_of_the_gated_mlp() -> None:
    shapes = ((2, 80, 4), (8, 4), (8,), (8, 4), (8,), (4, 8), (4,))
    assert gradcheck(lambda *a: kernels._GatedMLP.apply(*a, F64), tuple(leaf(*shape) for shape in shapes))


def test_gradients_of_the_mlp() -> None:
    shapes = ((2, 80, 4), (8, 4), (8,), (4, 8), (4,))
    assert gradcheck(lambda *a: kernels._MLP.apply(*a, F64), tuple(leaf(*shape) for shape in shapes))


@pytest.mark.parametrize("rows", [1, 2])
def test_gradients_of_the_norms(rows: int) -> None:
    assert gradcheck(kernels._RMSNorm.apply, (leaf(2, 5, 6), leaf(rows, 1, 6)))
    for kernel in (kernels._LayerNorm, kernels._LayerNormByRow):
        for others in (1, 2):
            inputs = leaf(2, 5, 6), leaf(rows, 1, 6), leaf(others, 1, 6)
            assert gradcheck(lambda *a: kernel.apply(*a, 1e-5), inputs)  # noqa: B023


def test_gradients_of_the_depthwise_convolution() -> None:
    assert gradcheck(kernels._Depthwise.apply, (leaf(2, 3, 6, 5), leaf(3, 1, 3, 3), leaf(3)))


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_depthwise_weight_gradient_by_columns(size: int, width: int, layout: torch.memory_format) -> None:
    x, gradient = (torch.randn(2, 20, 9, width, dtype=F64).contiguous(memory_format=layout) for _ in range(2))
    weight = leaf(20, 1, size, size)
    F.conv2d(x, weight, padding=size // 2, groups=20).backward(gradient)
    for dtype, tolerance in ((F64, 1e-10), (torch.float32, 1e-4)):
        found = kernels._depthwise_weight_gradient(x.to(dtype), gradient.to(dtype), size)
        assert found.shape == weight.shape
        assert (found - weight.grad).abs().max() < tolerance


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("outputs", [1, 4, 5])
def test_a_convolution_to_few_channels(size: int, outputs: int) -> None:
    layer = nn.Conv2d(6, outputs, size, padding=size // 2).to(F64)
    grid = (7, 4)
    assert gradcheck(lambda x, *_: kernels.convolution(x, layer, grid), (leaf(2, 28, 6), *layer.parameters()))
    x = leaf(2, 28, 6)
    expected = layer(x.transpose(1, 2).unflatten(2, grid))
    torch.testing.assert_close(kernels.convolution(x, layer, grid), expected)
    with torch.no_grad():
        torch.testing.assert_close(kernels.convolution(x, layer, grid), expected)


@pytest.mark.parametrize("count", [5, 8])
def test_gradients_of_self_attention(count: int) -> None:
    for kernel in (kernels._SelfAttention, kernels._SelfAttentionByRow):
        assert gradcheck(lambda qkv: kernel.apply(qkv, 2), (leaf(2, count, 12),))  # noqa: B023


def test_values_are_those_of_the_plain_forms() -> None:
    x, long = torch.randn(2, 80, 16), torch.randn(2, kernels.LONG_ROW // 16, 16)
    gate, value, out = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
    convolution = nn.Conv2d(16, 16, 7, padding=3, groups=16)
    qkv = torch.randn(2, 9, 48)
    q, k, v = qkv.unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    pairs = [
        (kernels.gated_mlp(x, gate, value, out), out(F.gelu(gate(x)) * value(x))),
        (kernels.mlp(x, gate, out), out(F.gelu(gate(x), approximate="tanh"))),
        (kernels.depthwise(x.view(2, 16, 8, 10), convolution), convolution(x.view(2, 16, 8, 10))),
        (kernels.self_attention(qkv, 4), F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)),
        (kernels.rms_norm(x, torch.ones(1, 1, 16)), F.rms_norm(x, (16,))),
        (kernels.layer_norm(x, 2 * torch.ones(1, 1, 16), torch.ones(1, 1, 16)), 2 * F.layer_norm(x, (16,)) + 1),
        (kernels.layer_norm(long, 2 * torch.ones(1, 1, 16), torch.ones(2, 1, 16)), 2 * F.layer_norm(long, (16,)) + 1),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_a_norm_of_nothing_but_zeros_is_zero() -> None:
    x = torch.zeros(1, 3, 8, requires_grad=True)
    found = kernels.rms_norm(x, torch.ones(1, 1, 8))
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
            return kernels.gated_mlp(x, first, second, third)
        if name == "mlp":
            return kernels.mlp(x, first, third)
        if name == "depthwise":
            return kernels.depthwise(x.view(2, 16, 8, 10), convolution)
        return kernels.self_attention(torch.cat([x, x, x], dim=-1), 4)

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
    attended = kernels.self_attention(qkv, 4), kernels.self_attention(qkv.bfloat16(), 4)
    for found in (kernels.gated_mlp(x, gate, value, out), kernels.mlp(x, gate, out), *attended):
        assert found.shape == shape
        found.sum().backward()
    assert gate.weight.grad is not None
    assert gate.weight.grad.abs().max() == 0
