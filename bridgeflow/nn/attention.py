"""Attention that is quick on every device, and the transformer pieces shared by networks and encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of (B, heads, N, d) over (B, heads, M, d); `mask` is bool (B, M), True where to look.

    Where gradients are needed on the CPU it is written as two matrix products and a softmax: there the fused
    kernel's backward in bfloat16 takes several times as long.
    """
    bias = None if mask is None else mask[:, None, None, :]
    if query.device.type != "cpu" or not (torch.is_grad_enabled() and query.requires_grad):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores.masked_fill(~bias, float("-inf"))
    return scores.softmax(-1).to(value.dtype) @ value


class Attention(nn.Module):
    """Multi-head attention of tokens (B, N, width) over themselves or over a context (B, M, context_width)."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens of the shape of x; `mask` (B, M) is True where the context (or x itself) is real."""
        looked_at = x if context is None else context
        q = self._split(self.query(x))
        k, v = (self._split(part) for part in self.key_value(looked_at).chunk(2, dim=-1))
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MLP(nn.Sequential):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP, with a key mask."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, width) to tokens; `mask` (B, N) is True where a token is real."""
        x = x + self.dropout(self.attention(self.norm_attention(x), mask=mask))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))
