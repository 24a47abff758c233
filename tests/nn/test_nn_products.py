"""Products of linear layers have torch's values and gradients, whichever library multiplies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.nn import ops
from bridgeflow.nn.cpu import products


@pytest.fixture(params=["as it is", "without oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without oneDNN":
        monkeypatch.setattr(products, "_ONEDNN", False)
    torch.manual_seed(0)


def matrices(kind: str) -> tuple[Tensor, Tensor]:
    """x (5, 12) and weight (6, 12) laid out in memory in some way."""
    x, weight = torch.randn(5, 12), torch.randn(6, 12)
    if kind == "transposed":
        return x.t().contiguous().t(), weight.t().contiguous().t()
    if kind == "gaps":
        return torch.randn(5, 24)[:, ::2], torch.randn(6, 20)[:, 4:16]
    if kind == "shifted":
        return torch.randn(9, 12)[3:8], torch.randn(7, 12)[1:]
    return x, weight


@pytest.mark.parametrize("kind", ["plain", "transposed", "gaps", "shifted"])
@pytest.mark.parametrize("bias", [True, False])
def test_values(library: None, kind: str, bias: bool) -> None:
    x, weight = matrices(kind)
    b = torch.randn(6) if bias else None
    torch.testing.assert_close(products.affine(x, weight, b), F.linear(x, weight, b), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients(library: None, bias: bool) -> None:
    x = torch.randn(2, 3, 12, requires_grad=True)
    weight, b = torch.randn(6, 12, requires_grad=True), torch.randn(6, requires_grad=True)
    inputs = (x, weight, b) if bias else (x, weight)
    target = torch.randn(2, 3, 6)
    found, expected = (
        torch.autograd.grad((function(*inputs) - target).square().sum(), inputs) for function in (ops.linear, F.linear)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_is_not_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    affine = products.affine

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        asked.append(tuple(weight.shape))
        return affine(x, weight, bias)

    monkeypatch.setattr(products, "affine", counted)
    monkeypatch.setattr(ops, "CPU_KERNELS", True)
    weight = torch.randn(6, 12, requires_grad=True)
    ops.linear(torch.randn(5, 12), weight).sum().backward()
    # The forward product alone where products are ours; none where they are torch's.
    assert asked == ([(6, 12)] if products.by_onednn(torch.randn(5, 12), weight) else [])


def test_autocast_has_its_own_type() -> None:
    layer = ops.Linear(12, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(5, 12)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight = torch.randn(5, 12, dtype=dtype), torch.randn(6, 12, dtype=dtype)
    assert not products.by_onednn(x, weight)
    assert torch.equal(ops.linear(x, weight), F.linear(x, weight))


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
def test_switched_off_with_the_library() -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        assert not products.by_onednn(torch.randn(5, 12), torch.randn(6, 12))


def test_a_bias_with_gaps_is_read_as_it_is(library: None) -> None:
    x, weight = torch.randn(5, 12), torch.randn(6, 12)
    for bias in (torch.arange(12.0)[::2], torch.randn(1).expand(6)):
        torch.testing.assert_close(products.affine(x, weight, bias), F.linear(x, weight, bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (torch.randn(5, 12), torch.randn(6, 11), None),
        (torch.randn(5, 12), torch.randn(6, 12), torch.randn(5)),
        (torch.randn(5, 12), torch.randn(6, 12, dtype=torch.float64), None),
    ],
)
def test_what_does_not_fit_is_refused_as_torch_refuses_it(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)) as expected:
        F.linear(x, weight, bias)
    with pytest.raises(type(expected.value)) as found:
        ops.linear(x, weight, bias)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("shape", [(0, 12), (0, 3, 12), (2, 0, 12)])
def test_of_nothing(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, requires_grad=True)
    layer = ops.Linear(12, 6)
    layer(x).sum().backward()
    assert layer(x).shape == (*shape[:-1], 6)
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() == 0
