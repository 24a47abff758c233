"""A transformer from any latent to any shape: what learned source encoders and encoding losses are made of."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.attention import TransformerBlock
from bridgeflow.nn.patches import Patches, grid_positions
from bridgeflow.nn.recompute import Recomputing
from bridgeflow.settings import Settings


class LinearStem(nn.Module):
    """Tokens (B, N, width) from a latent (B, *shape), each from its own cells."""

    def __init__(self, patches: Patches, width: int) -> None:
        super().__init__()
        self.patches = patches
        self.linear = nn.Linear(patches.width, width)

    def forward(self, z: Tensor) -> Tensor:
        """(B, *shape) to (B, N, width)."""
        return self.linear(self.patches.split(z))


class StemBlock(nn.Module):
    """Two 3x3 convolutions beside the identity; the last one begins at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels), nn.Conv2d(channels, channels, 3, padding=1), nn.GELU(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same."""
        return x + self.layers(x)


class ConvStem(nn.Sequential):
    """Tokens (B, N, width) from a grid (B, C, H, W), by convolutions of stride 2, each with `blocks` residual blocks
    after it."""

    def __init__(self, latent: LatentSpec, patches: Patches, width: int, blocks: int = 0) -> None:
        halvings = patches.patch.bit_length() - 1
        if latent.layout != "grid" or len(latent.shape) != 3 or patches.patch != 2**halvings or halvings == 0:
            raise UsageError(
                f"source_encoder.stem=conv takes a grid (C, H, W) and a patch of 2, 4, 8, ..., not {latent} and "
                f"{patches.patch}: set source_encoder.stem=linear."
            )
        layers: list[nn.Module] = []
        channels = latent.shape[0]
        for left in range(halvings - 1, -1, -1):
            wider = max(8, width // 2**left)
            layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.GroupNorm(1, wider), nn.GELU()]
            layers += [StemBlock(wider) for _ in range(blocks)]
            channels = wider
        super().__init__(*layers, nn.Conv2d(channels, width, 1), nn.Flatten(2))

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, width), row by row."""
        return super().forward(z).transpose(1, 2)


class TokenEncoder(Recomputing):
    """A transformer from any latent to any shape: source tokens and one learned query per target patch attend
    to each other, and the queries are read out. Padding is masked."""

    def __init__(
        self,
        source: LatentSpec,
        target: LatentSpec,
        settings: TokenEncoderSettings,
        outputs: int = 1,
        key: str = "source_encoder",
    ) -> None:
        """key: where a recipe has the settings, for errors."""
        super().__init__()
        width = settings.width
        if width % settings.heads:
            raise UsageError(f"{key}.heads must divide its width: {width} is no multiple of {settings.heads}.")
        self.source = Patches(source, settings.patch, f"{key}.patch")
        self.target = Patches(target, settings.target_patch, f"{key}.target_patch")
        self.embed = (
            ConvStem(source, self.source, width, settings.stem_blocks)
            if settings.stem == "conv"
            else LinearStem(self.source, width)
        )
        self.norm_in = nn.LayerNorm(width)
        self.queries = nn.Parameter(0.02 * torch.randn(self.target.count, width))
        self.source_positions: Tensor
        self.target_positions: Tensor
        self.register_buffer("source_positions", grid_positions(self.source.grid, width), persistent=False)
        self.register_buffer("target_positions", grid_positions(self.target.grid, width), persistent=False)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, settings.heads, settings.mlp_ratio, settings.dropout) for _ in range(settings.depth)
        )
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs * self.target.width)
        self.outputs = outputs

    def forward(self, z: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, *source shape) to `outputs` tensors (B, *target shape)."""
        batch = z.shape[0]
        tokens = self.norm_in(self.embed(z)) + self.source_positions
        queries = (self.queries + self.target_positions).expand(batch, -1, -1).to(tokens.dtype)
        x = torch.cat([queries, tokens], dim=1)
        real = self.source.mask(mask)
        if real is not None:
            real = torch.cat([real.new_ones(batch, self.target.count), real], dim=1)
        for block in self.blocks:
            x = self.call(block, x, real)
        heads = self.head(self.norm_out(x[:, : self.target.count])).chunk(self.outputs, dim=-1)
        return tuple(self.target.join(head).float() for head in heads)


class TokenEncoderSettings(Settings):
    """Size of the transformer between source and target."""

    width: int = Field(default=192, ge=16)
    """Features of a token."""
    depth: int = Field(default=4, ge=1)
    """Blocks."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they divide the width."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Hidden features of the MLP over the width."""
    patch: int | None = Field(default=None, ge=1)
    """Cells per axis of a source grid that make a token; 1 for sequences. None: the smallest power of 2 that leaves at
    most 256 tokens, since attention's memory grows with their square."""
    stem: Literal["linear", "conv"] = "linear"
    """How cells become a token: a linear layer, or 3x3 convolutions that halve a (C, H, W) grid until a token is
    left (Xiao et al., arXiv 2106.14881); `patch` is then a power of 2."""
    stem_blocks: int = Field(default=0, ge=0)
    """Residual blocks of convolutions after each halving of stem=conv."""
    target_patch: int | None = Field(default=None, ge=1)
    """Cells per axis of a target grid that one query writes; 1 for sequences. None: as for `patch`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout after attention and MLP."""
