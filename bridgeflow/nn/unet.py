"""Convolutional U-Net for grids of two axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.attention import CrossAttention, SelfAttention
from bridgeflow.nn.recompute import Recomputing
from bridgeflow.nn.velocity import Conditioning, NetworkSettings, VelocityNet


class UNetSettings(NetworkSettings):
    """Residual convolutions down and up, with attention where asked for."""

    name: Literal["unet"] = "unet"
    channels: tuple[PositiveInt, ...] = Field(default=(48, 96, 192), min_length=1)
    """Features at each resolution, finest first; each level halves the last."""
    blocks: int = Field(default=2, ge=1)
    """Residual blocks a level, on the way down and on the way up."""
    attention: tuple[int, ...] = ()
    """Levels (0 is the finest) with self-attention after each block; the middle has it with the last level."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they divide the channels of every level that attends."""
    patch: int = Field(default=1, ge=1)
    """Cells per axis folded into channels before the first convolution: 2 quarters the cost."""
    norm: Literal["group", "none"] = "group"
    """`group`: group normalisation before each convolution (Wu & He, arXiv 1803.08494), whose statistics are those of
    the whole grid. `none`: without, so that a cell depends on its surroundings alone and a tile of a large picture is
    what the whole would be there; super-resolution does better so (Lim et al., arXiv 1707.02921)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout inside the residual blocks."""

    @model_validator(mode="after")
    def _attention_names_levels(self) -> UNetSettings:
        levels = len(self.channels)
        if not all(0 <= level < levels for level in self.attention):
            raise ValueError(f"attention names levels from 0 to {levels - 1}, not {list(self.attention)}")
        return self

    @property
    def multiple(self) -> int:
        """What the sizes of a grid have to be multiples of."""
        return self.patch * 2 ** (len(self.channels) - 1)

    def build(self, latent: LatentSpec, context: LatentSpec | None = None) -> VelocityNet:
        """The network; refuses latents that are not (C, H, W) or do not divide."""
        if latent.layout != "grid" or len(latent.shape) != 3:
            raise UsageError(f"network 'unet' takes a grid latent (C, H, W), not {latent}: try network.name=dit.")
        multiple = self.multiple
        if any(size % multiple for size in latent.shape[1:]):
            raise UsageError(
                f"network 'unet' with these levels needs sizes that are multiples of {multiple}, not {latent}."
            )
        return UNet(self, latent.shape[0], None if context is None else context.shape[-1])


def _norm(channels: int, kind: str) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    groups = next(n for n in (8, 6, 4, 3, 2, 1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the condition scales and shifts between them."""

    def __init__(self, inputs: int, outputs: int, condition: int, dropout: float, norm: str = "group") -> None:
        super().__init__()
        self.norm_in = _norm(inputs, norm)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * outputs)
        self.norm_out = _norm(outputs, norm)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (B, inputs, H, W); condition: (B, condition)."""
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = F.silu(self.norm_out(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv_out(self.dropout(h))


class SpatialAttention(nn.Module):
    """Attention among the cells of a grid, and over a context where there is one."""

    def __init__(self, channels: int, heads: int, context_width: int | None) -> None:
        super().__init__()
        if channels % heads:
            raise UsageError(
                f"network.heads must divide the channels of a level that attends: {channels} is no multiple of {heads}."
            )
        self.norm = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, heads)
        self.cross_norm = nn.LayerNorm(channels) if context_width is not None else None
        self.cross = CrossAttention(channels, heads, context_width) if context_width is not None else None

    def forward(self, x: Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
        """(B, channels, H, W) to the same."""
        size = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norm(tokens))
        if self.cross is not None and self.cross_norm is not None and context is not None:
            tokens = tokens + self.cross(self.cross_norm(tokens), context, context_mask)
        return tokens.transpose(1, 2).unflatten(2, size)


class Level(nn.Module):
    """One residual block, with attention after it where the level attends."""

    def __init__(self, block: ResidualBlock, attention: nn.Module | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, condition: Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        x = self.block(x, condition)
        return x if self.attention is None else self.attention(x, context, context_mask)


class UNet(VelocityNet, Recomputing):
    """The U-Net that `UNetSettings` describes. It takes any H, W that divide by its levels."""

    def __init__(self, settings: UNetSettings, channels: int, context_width: int | None) -> None:
        super().__init__()
        self.channels, self.multiple = channels, settings.multiple
        widths = settings.channels
        condition = 4 * widths[0]
        last = len(widths) - 1
        attends = set(settings.attention) | ({last} if context_width is not None else set())

        def level(inputs: int, outputs: int, index: int) -> Level:
            attention = SpatialAttention(outputs, settings.heads, context_width) if index in attends else None
            return Level(ResidualBlock(inputs, outputs, condition, settings.dropout, settings.norm), attention)

        cells = settings.patch**2
        self.patch = settings.patch
        self.conditioning = Conditioning(condition, settings.second_time, indicator=True)
        self.stem = nn.Conv2d(channels * cells, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.reduce = nn.ModuleList()
        skips = [widths[0]]
        width = widths[0]
        for index, outputs in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(settings.blocks):
                blocks.append(level(width, outputs, index))
                width = outputs
                skips.append(width)
            self.down.append(blocks)
            if index < last:
                self.reduce.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList([level(width, width, last), level(width, width, -1)])  # -1: no attention
        self.up = nn.ModuleList()
        self.enlarge = nn.ModuleList()
        for index in range(last, -1, -1):
            blocks = nn.ModuleList()
            for _ in range(settings.blocks + 1):
                blocks.append(level(width + skips.pop(), widths[index], index))
                width = widths[index]
            self.up.append(blocks)
            if index > 0:
                self.enlarge.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm = _norm(width, settings.norm)
        self.head = nn.Conv2d(width, channels * cells, 3, padding=1)
        # The velocity contains -z0, which is -z_t near t = 0. A gain on z that depends on time provides that term, so
        # the convolutions need not copy every detail of the source to the output.
        self.gain = nn.Linear(condition, channels)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def hidden_layers(self) -> Sequence[tuple[nn.Module, int]]:
        """Its levels, downwards and up again."""
        levels: list[Level] = [own for part in (*self.down, self.middle, *self.up) for own in part]
        return [(own, own.block.conv_out.out_channels) for own in levels]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Every size that divides by the levels."""
        return len(shape) == 3 and shape[0] == self.channels and not any(size % self.multiple for size in shape[1:])

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
        condition = F.silu(self.conditioning(t, null, r))
        x = self.stem(F.pixel_unshuffle(z, self.patch))
        skips = [x]
        for index, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                x = self.call(block, x, condition, context, context_mask)
                skips.append(x)
            if index < len(self.reduce):
                x = self.reduce[index](x)
                skips.append(x)
        for block in self.middle:
            x = self.call(block, x, condition, context, context_mask)
        for index, blocks in enumerate(self.up):
            for block in blocks:  # type: ignore[attr-defined]
                x = self.call(block, torch.cat([x, skips.pop()], dim=1), condition, context, context_mask)
            if index < len(self.enlarge):
                x = self.enlarge[index](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        velocity = F.pixel_shuffle(self.head(F.silu(self.norm(x))), self.patch)
        return (velocity + self.gain(condition)[:, :, None, None] * z).to(z.dtype)
