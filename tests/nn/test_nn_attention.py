"""Attention: both ways of computing it agree, and masks hide what they say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.nn.attention import CrossAttention, TransformerBlock, attend


def inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    sizes = [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)]
    return [torch.randn(size, generator=random).to(dtype).requires_grad_() for size in sizes]


MASK = torch.tensor([[True, True, False, True, False, False, True], [True] * 7])


@pytest.mark.parametrize("mask", [None, MASK])
def test_attention_by_its_definition(mask: Tensor | None) -> None:
    query, key, value = inputs()
    products = (query @ key.transpose(2, 3)).tolist()
    expected = torch.zeros(2, 3, 5, 8, dtype=torch.float64)
    for row, head, place in [(r, h, n) for r in range(2) for h in range(3) for n in range(5)]:
        looked_at = [m for m in range(7) if mask is None or mask[row, m]]
        scores = [products[row][head][place][m] / math.sqrt(8) for m in looked_at]
        total = sum(math.exp(score) for score in scores)
        for score, m in zip(scores, looked_at, strict=True):
            expected[row, head, place] += math.exp(score) / total * value[row, head, m].detach()
    torch.testing.assert_close(attend(query, key, value, mask).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(attend(query, key, value, mask), expected)


@pytest.mark.parametrize("mask", [None, MASK])
def test_gradients_are_those_of_the_fused_kernel(mask: Tensor | None) -> None:
    own, fused = inputs(), inputs()
    weight = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(1)).double()
    (attend(*own, mask) * weight).sum().backward()
    bias = None if mask is None else mask[:, None, None, :]
    (F.scaled_dot_product_attention(*fused, attn_mask=bias) * weight).sum().backward()
    for mine, theirs in zip(own, fused, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_gradients_reach_keys_and_values_of_a_query_without_one() -> None:
    query, key, value = inputs()
    attend(query.detach(), key, value).square().sum().backward()
    assert key.grad is not None
    assert value.grad is not None
    assert float(key.grad.abs().sum()) > 0


def test_what_is_masked_has_no_influence() -> None:
    query, key, value = inputs()
    changed = [part.detach().clone() for part in (key, value)]
    for part in changed:
        part.transpose(1, 2)[~MASK] += 100.0
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(attend(query, *changed, MASK), attend(query, key, value, MASK))


def test_the_layer_attends_to_a_context_of_another_width() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(16, 4, context_width=6)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 9, 6)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 4:] = False
    out = layer(x, context, mask)
    assert out.shape == (2, 5, 16)
    torch.testing.assert_close(out, layer(x, context[:, :4]))
    assert not torch.allclose(out, layer(x, context))


def test_a_block_keeps_real_tokens_clear_of_padding() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(16, 4).eval()
    x = torch.randn(2, 6, 16)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    out = block(x, mask)
    torch.testing.assert_close(out[1, :4], block(x[1:, :4])[0])
    torch.testing.assert_close(out[0], block(x[:1])[0])


@pytest.mark.parametrize("mask", [None, MASK])
def test_bfloat16_stays_near_float32(mask: Tensor | None) -> None:
    exact = attend(*inputs(torch.float32), mask)
    low = attend(*inputs(torch.bfloat16), mask)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0.05, atol=0.05)
