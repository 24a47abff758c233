"""The transformer block that recent networks have in common, beside the published one of DiT.

Root mean square norms (Zhang and Sennrich, arXiv 1910.07467), normalised queries and keys with learned gains (Dehghani
et al., arXiv 2302.05442), rotary positions over the axes of the grid (Su et al., arXiv 2104.09864) and a gated MLP
(SwiGLU; Shazeer, arXiv 2002.05202), modulated as adaLN-zero has it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.nn.attention import CrossAttention
from bridgeflow.nn.cpu.derivatives import wide
from bridgeflow.nn.ops import Linear, rms_norm, self_attention
from bridgeflow.nn.patches import zero_linear

MAX_PERIOD = 100.0
"""Of the slowest rotation, in cells: grids of latents are small, where sentences are long."""


def rotations(grid: tuple[int, ...], width: int, before: int = 0) -> Tensor:
    """Cosines and sines (2, before + count, width // 2) of the angles that the features of a head of `width` are turned
    by at each token of a grid, its pairs shared among the axes; tokens before those of the grid are not turned."""
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in grid), indexing="ij")
    share = width // 2 // len(grid)
    frequency = MAX_PERIOD ** -(torch.arange(share) / max(share, 1))
    angles = torch.cat([axis.flatten()[:, None] * frequency for axis in axes], dim=1)
    angles = F.pad(angles, (0, width // 2 - angles.shape[1], before, 0))
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Heads (B, N, ..., width) with their pairs of features (i, i + width / 2) turned by `rotations` (2, N, width / 2);
    an odd feature stays."""
    half = turns.shape[-1]
    shape = (1, turns.shape[1], *[1] * (x.ndim - 3), half)
    cos, sin = (own.view(shape).to(x.dtype) for own in turns)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)


class RotaryAttention(nn.Module):
    """Multi-head attention of tokens (B, N, width) over themselves, with normalised and turned queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.gains = nn.Parameter(torch.ones(2, 1, width // heads))
        """Of the normalised queries and keys."""
        self.out = Linear(width, width)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """Tokens of the shape of x; turns: see `rotations`."""
        query_key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).tensor_split([2], dim=2)
        normed = F.rms_norm(query_key.to(wide(query_key.dtype)), query_key.shape[-1:]) * self.gains
        turned = rotated(normed, turns).to(value.dtype)
        return self.out(self_attention(torch.cat([turned, value], dim=2).flatten(2), self.heads))


class SwiGLU(nn.Module):
    """out(SiLU(gate x) * value x), with two thirds of the hidden features of a plain MLP, which are as many weights."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = max(8, round(width * ratio * 2 / 3 / 8) * 8)
        self.gate_value = Linear(width, 2 * hidden, bias=False)
        self.out = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        result: Tensor = self.out(F.silu(gate) * value)
        return result


class ModernBlock(nn.Module):
    """Self-attention, cross-attention where there is a context, and a gated MLP, each scaled, shifted and gated."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, context_width: int | None = None) -> None:
        super().__init__()
        self.attention = RotaryAttention(width, heads)
        self.mlp = SwiGLU(width, mlp_ratio)
        self.modulation = nn.Sequential(nn.SiLU(), zero_linear(width, 6 * width))
        if context_width is not None:
            self.norm_context = nn.Parameter(torch.ones(1, 1, width))
            self.cross_attention = CrossAttention(width, heads, context_width)
            self.cross_attention.out = zero_linear(width, width)

    def forward(
        self, x: Tensor, condition: Tensor, turns: Tensor, context: Tensor | None, context_mask: Tensor | None
    ) -> Tensor:
        """x: (B, N, width); condition: (B, width); turns: see `rotations`."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = torch.addcmul(x, gate_a, self.attention(rms_norm(x, 1 + scale_a) + shift_a, turns))
        if context is not None:
            x = x + self.cross_attention(rms_norm(x, self.norm_context), context, context_mask)
        return torch.addcmul(x, gate_m, self.mlp(rms_norm(x, 1 + scale_m) + shift_m))
