"""Diffusion transformer with adaLN-zero (Peebles and Xie, arXiv 2212.09748), for grids and sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bridgeflow.modality import LatentSpec
from bridgeflow.nn.attention import MLP, CrossAttention, SelfAttention, SquaredReLUMLP
from bridgeflow.nn.modern import ModernBlock, rotations
from bridgeflow.nn.ops import layer_norm
from bridgeflow.nn.patches import Patches, grid_positions, zero_linear
from bridgeflow.nn.recompute import Recomputing
from bridgeflow.nn.velocity import Conditioning, NetworkSettings, VelocityNet

EPSILON = 1e-6
"""Of the layer norms."""


class TransformerSettings(NetworkSettings):
    """What the transformers share."""

    name: str
    width: int = Field(default=256, ge=16)
    """Features of a token."""
    depth: int = Field(default=6, ge=1)
    """Blocks."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they divide the width."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Hidden features of the MLP over the width."""
    patch: int = Field(default=1, ge=1)
    """Cells of a grid, per axis, that make a token; 1 for sequences."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, but {self.width} is no multiple of {self.heads}")
        return self


class DiTSettings(TransformerSettings):
    """A transformer over patches of a grid or positions of a sequence."""

    name: Literal["dit"] = "dit"
    block: Literal["published", "modern"] = "published"
    """`published`: that of DiT, with fixed sinusoidal positions. `modern`: root mean square norms, normalised queries
    and keys, rotary positions over the grid, and a gated MLP, with about as many weights."""
    indicator: Literal["token", "embedding"] = "token"
    """`token`: one of two learned tokens is put before the others (CrossFlow's paper); `embedding`: added to
    the time embedding (its published DiT)."""

    time_scale: float = Field(default=1000.0, gt=0)
    """Factor on t before its sinusoid; CrossFlow's published DiT takes t as it is, 1."""
    time_features: int = Field(default=128, ge=2)
    """Features of the sinusoid of t."""

    def build(self, latent: LatentSpec, context: LatentSpec | None = None) -> VelocityNet:
        """The network; a context is a sequence latent whose positions are attended to."""
        return DiT(self, latent, context)


class DiTBlock(nn.Module):
    """Self-attention, cross-attention where there is a context, and MLP, each scaled, shifted and gated."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, context_width: int | None = None, reading: bool = False
    ) -> None:
        """reading: queries and keys are normalised, the MLP has a squared ReLU, and gates begin at 1 instead of 0."""
        super().__init__()
        self.reading = reading
        self.attention = SelfAttention(width, heads, qk_norm=reading)
        hidden = round(width * mlp_ratio)
        self.mlp: nn.Module = SquaredReLUMLP(width, hidden) if reading else MLP(width, hidden)
        self.modulation = nn.Sequential(nn.SiLU(), zero_linear(width, 6 * width))
        if context_width is not None:
            self.norm_context = nn.LayerNorm(width)
            self.cross_attention = CrossAttention(width, heads, context_width)
            self.cross_attention.out = zero_linear(width, width)

    def forward(self, x: Tensor, condition: Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
        """x: (B, N, width); condition: (B, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        if self.reading:
            gate_a, gate_m = 1 + gate_a, 1 + gate_m
        x = torch.addcmul(x, gate_a, self.attention(layer_norm(x, 1 + scale_a, shift_a, EPSILON)))
        if context is not None:
            x = x + self.cross_attention(self.norm_context(x), context, context_mask)
        return torch.addcmul(x, gate_m, self.mlp(layer_norm(x, 1 + scale_m, shift_m, EPSILON)))


class DiT(VelocityNet, Recomputing):
    """The transformer that `DiTSettings` describes."""

    def __init__(self, settings: DiTSettings, latent: LatentSpec, context: LatentSpec | None) -> None:
        super().__init__()
        width = settings.width
        self.patches = Patches(latent, settings.patch)
        self.embed = nn.Linear(self.patches.width, width)
        self.positions: Tensor
        self.turns: Tensor
        if settings.block == "published":
            # Kept with the weights: imported ones bring an order of features of their own.
            self.register_buffer("positions", grid_positions(self.patches.grid, width))
        else:
            before = 1 if settings.indicator == "token" else 0
            turns = rotations(self.patches.grid, width // settings.heads, before)
            self.register_buffer("turns", turns, persistent=False)
        self.width = width
        self.modern = settings.block == "modern"
        self.conditioning = Conditioning(
            width,
            settings.second_time,
            settings.indicator == "embedding",
            settings.time_features,
            settings.time_scale,
        )
        self.indicator = nn.Parameter(0.02 * torch.randn(2, width)) if settings.indicator == "token" else None
        self.context_embed = nn.Linear(context.shape[-1], width) if context is not None else None
        block: type[nn.Module] = ModernBlock if self.modern else DiTBlock
        self.blocks = nn.ModuleList(
            block(width, settings.heads, settings.mlp_ratio, width if context is not None else None)
            for _ in range(settings.depth)
        )
        self.modulation = nn.Sequential(nn.SiLU(), zero_linear(width, 2 * width))
        self.head = zero_linear(width, self.patches.width)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        null: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        r: Tensor | None = None,
    ) -> Tensor:
        """See `VelocityNet.forward`."""
        x = self.embed(self.patches.split(z))
        if not self.modern:
            x = x + self.positions
        where = (self.turns,) if self.modern else ()
        condition = self.conditioning(t, null, r)
        if self.indicator is not None:
            x = torch.cat([self.indicator[null.long()][:, None].to(x.dtype), x], dim=1)
        if self.context_embed is not None and context is not None:
            context = self.context_embed(context)
        for block in self.blocks:
            x = self.call(block, x, condition, *where, context, context_mask)
        if self.indicator is not None:
            x = x[:, 1:]
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.patches.join(self.head(layer_norm(x, 1 + scale, shift, EPSILON))).to(z.dtype)

    def hidden_layers(self) -> Sequence[tuple[nn.Module, int]]:
        """Each of its blocks."""
        return [(block, self.width) for block in self.blocks]

    def hidden_map(self, hidden: Tensor) -> Tensor:
        """See `VelocityNet.hidden_map`; without the indicator."""
        return hidden[:, -self.patches.count :].transpose(1, 2).unflatten(2, self.patches.grid)
