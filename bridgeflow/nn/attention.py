"""Attention that is quick on every device, and the transformer pieces shared by networks and encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.nn.ops import Linear, mlp, self_attention, takes_custom_backward, transformed


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention of (B, heads, N, d) over (B, heads, M, d); `mask` is bool (B, M), True where to look.

    Where gradients are needed on the CPU it is written as two matrix products and a softmax: there the fused
    kernel's backward in bfloat16 takes several times as long. What a row with nothing to attend to gives is finite
    and means nothing.
    """
    # (B, M) to (B, 1, 1, M), over heads and queries.
    real = None if mask is None else mask[:, None, None, :]
    if not (transformed() or (query.requires_grad and takes_custom_backward(query))):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=real, dropout_p=dropout)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if real is not None:
        scores = scores.masked_fill(~real, torch.finfo(scores.dtype).min)
    shares = F.dropout(scores.softmax(-1).to(value.dtype), dropout)
    return shares @ value


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens (B, N, width) over themselves."""

    def __init__(self, width: int, heads: int, bias: bool = True, qk_norm: bool = False) -> None:
        """bias: of queries, keys and values; the output has one always. qk_norm: queries and keys of each head have
        root mean square 1 (Dehghani et al., arXiv 2302.05442, without learned gains), which bounds the scores."""
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.qkv = Linear(width, 3 * width, bias=bias)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens of the shape of x; `mask` (B, N) is True where a token is real."""
        qkv = self.qkv(x)
        if self.qk_norm:
            query_key, value = qkv.unflatten(-1, (3, self.heads, -1)).tensor_split([2], dim=2)
            normed = F.rms_norm(query_key, query_key.shape[-1:])
            qkv = torch.cat([normed.to(value.dtype), value], dim=2).flatten(2)
        if mask is None:
            return self.out(self_attention(qkv, self.heads))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of tokens (B, N, width) over a context (B, M, context_width)."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens of the shape of x; `mask` (B, M) is True where the context is real."""
        q = _split(self.query(x), self.heads)
        k, v = (_split(part, self.heads) for part in self.key_value(context).chunk(2, dim=-1))
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))


class MLP(nn.Sequential):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        first, _, second = self
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        return mlp(x, first, second)


class SquaredReLUMLP(nn.Module):
    """Linear, squared ReLU (So et al., arXiv 2109.08668), Linear. On a CPU a GELU costs about as much as a layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        result: Tensor = self.down(F.relu(self.up(x)).square())
        return result


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP, with a key mask."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, width) to tokens; `mask` (B, N) is True where a token is real."""
        x = x + self.dropout(self.attention(self.norm_attention(x), mask))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))
