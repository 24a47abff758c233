"""Self-attention without a mask."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bridgeflow.nn import plain
from bridgeflow.nn.cpu.derivatives import by_hand, keep

LONG_ROW = 2**16
"""Scores of a row, over all heads, from which on it pays to go row by row: before, calls take longer than they save."""


class SelfAttentionByRow(torch.autograd.Function):
    """Row by row of the batch, so that the scores of its heads stay in a core's own cache."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        batch, count, width = qkv.shape
        # `baddbmm` wants a tensor to add to; with beta=0 it is not read.
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
        keep(ctx, partial(plain.self_attention, heads=heads), (qkv,), shares)
        ctx.heads, ctx.scale = heads, scale
        return seen

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv, shares = ctx.saved_tensors
        to_qkv, unread = torch.empty_like(qkv), qkv.new_empty(1)
        to_scores = shares.new_empty(shares.shape[1:])
        of_rows = (_by_head(x, n, ctx.heads) for x, n in ((qkv, 3), (gradients[0], 1), (to_qkv, 3)))
        for own, to_seen, result, share in zip(*of_rows, shares, strict=True):
            query, key, value = own
            # In place, as softmax's derivative reads a row before it writes it. It reads the shares in order, which has
            # them in the cache for the product that follows.
            to_share = torch.bmm(to_seen[0], value.transpose(1, 2), out=to_scores)
            torch.ops.aten._softmax_backward_data.out(to_share, share, -1, share.dtype, grad_input=to_scores)
            torch.bmm(share.transpose(1, 2), to_seen[0], out=result[2])
            torch.baddbmm(unread, to_scores, key, beta=0, alpha=ctx.scale, out=result[0])
            torch.baddbmm(unread, to_scores.transpose(1, 2), query, beta=0, alpha=ctx.scale, out=result[1])
        return to_qkv, None


def _by_head(x: Tensor, parts: int, heads: int) -> Tensor:
    """(B, N, parts heads d) as (B, parts, heads, N, d), a view."""
    return x.unflatten(-1, (parts, heads, -1)).permute(0, 2, 3, 1, 4)


class SelfAttention(torch.autograd.Function):
    """All rows at once, for half types: tokens are padded to a multiple of 8, which their products want."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        batch, count, width = qkv.shape
        features = width // 3 // heads
        query, key, value = _padded(qkv, heads)
        with torch.autocast(qkv.device.type, enabled=False):
            scores = torch.baddbmm(qkv.new_empty(1), query, key.transpose(1, 2), beta=0, alpha=features**-0.5)
            scores[..., count:] = float("-inf")
            shares = scores.softmax(-1)
            seen = torch.bmm(shares, value)
        # Padded again in the backward pass rather than kept beside what it is made of.
        keep(ctx, partial(plain.self_attention, heads=heads), (qkv,), shares)
        ctx.shape = (batch, count, heads, features)
        return seen.view(batch, heads, seen.shape[1], features)[:, :, :count].transpose(1, 2).flatten(2)

    @staticmethod
    @by_hand
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv, shares = ctx.saved_tensors
        batch, count, heads, features = ctx.shape
        query, key, value = _padded(qkv, heads)
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


def _padded(qkv: Tensor, heads: int) -> Tensor:
    """Queries, keys and values (3, B heads, N', d), with zeros up to the next multiple of 8 tokens N'."""
    batch, count, width = qkv.shape
    parts = qkv.new_empty(3, batch, heads, -(-count // 8) * 8, width // 3 // heads)
    parts[..., :count, :] = qkv.view(batch, count, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    parts[..., count:, :] = 0
    return parts.flatten(1, 2)
