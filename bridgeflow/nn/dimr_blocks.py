"""What the stages of a DiMR are made of."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bridgeflow.nn.attention import SelfAttention
from bridgeflow.nn.ops import Linear, depthwise, gated_mlp, layer_norm, linear, rms_norm
from bridgeflow.settings import Settings


class StageSettings(Settings):
    """One resolution of the network."""

    kind: Literal["transformer", "convnext"] = "transformer"
    """What its blocks are made of."""
    width: int = Field(default=256, ge=8)
    """Features of a cell."""
    hidden: int = Field(default=512, ge=8)
    """Features inside the gated MLP."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of a transformer; they divide the width. A ConvNeXt has none."""
    blocks: int = Field(default=7, ge=1)
    """Blocks: an odd number, the same before and after the middle one, joined by long skips."""
    patch: int = Field(default=1, ge=1)
    """Cells per axis of the (folded) latent that make a cell of this stage's grid."""

    @model_validator(mode="after")
    def _odd_and_divisible(self) -> StageSettings:
        if self.blocks % 2 == 0:
            raise ValueError(f"blocks must be odd, one of them stands in the middle; {self.blocks} is even")
        if self.kind == "transformer" and self.width % self.heads:
            raise ValueError(f"heads must divide width, but {self.width} is no multiple of {self.heads}")
        return self


class TimeVector(nn.Module):
    """A vector that moves from `early` to `late` along t, element by element.

    s = sigmoid((1 + slope)(1 - 2t) + offset); the vector is s early + (1 - s) late.
    """

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.early = nn.Parameter(torch.full((width,), value))
        self.late = nn.Parameter(torch.full((width,), value))
        self.slope = nn.Parameter(torch.zeros(width))
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) in [0, 1], or (1,) for all rows, to (B, 1, width)."""
        share = torch.sigmoid(torch.addcmul(self.offset, 1 + self.slope, (1 - 2 * t.float())[:, None]))
        return torch.lerp(self.late, self.early, share)[:, None]


class TimeRMSNorm(nn.Module):
    """x / rms(x), times a vector that depends on time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = TimeVector(width, 1.0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: (B, N, width)."""
        return rms_norm(x, self.scale(t))


class TimeLayerNorm(nn.Module):
    """Layer norm whose scale and shift depend on time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = TimeVector(width, 1.0)
        self.shift = TimeVector(width, 0.0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: (B, N, width)."""
        return layer_norm(x, self.scale(t), self.shift(t))


class GatedMLP(nn.Module):
    """out(GELU(gate x) * value x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden)
        self.value = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same."""
        return gated_mlp(x, self.gate, self.value, self.out)


class AttentionBlock(nn.Module):
    """Self-attention and gated MLP, each after a norm that depends on time."""

    def __init__(self, settings: StageSettings) -> None:
        super().__init__()
        self.norm_attention = TimeRMSNorm(settings.width)
        self.attention = SelfAttention(settings.width, settings.heads, bias=False)
        self.norm_mlp = TimeRMSNorm(settings.width)
        self.mlp = GatedMLP(settings.width, settings.hidden)

    def forward(self, x: Tensor, t: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, N, width)."""
        x = x + self.attention(self.norm_attention(x, t))
        return x + self.mlp(self.norm_mlp(x, t))


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, then a gated MLP after a norm that depends on time."""

    def __init__(self, settings: StageSettings) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(settings.width, settings.width, 7, padding=3, groups=settings.width)
        self.norm_mlp = TimeRMSNorm(settings.width)
        self.mlp = GatedMLP(settings.width, settings.hidden)

    def forward(self, x: Tensor, t: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, N, width), the cells of the grid row by row."""
        cells = x.unflatten(1, grid).permute(0, 3, 1, 2)
        x = x + depthwise(cells, self.depthwise).permute(0, 2, 3, 1).flatten(1, 2)
        return x + self.mlp(self.norm_mlp(x, t))


class LongSkip(nn.Linear):
    """What came before joined with what a block saw on the way in: a linear layer over both side by side."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """(B, N, width) twice to one. As two products, so that nothing is copied side by side."""
        width = self.out_features
        return linear(x, self.weight[:, :width], self.bias) + linear(skip, self.weight[:, width:])


class Upsample(nn.Module):
    """Features (B, N, inputs) of a coarse grid as features (B, N ratio^2, width) of a grid `ratio` times as fine."""

    def __init__(self, inputs: int, width: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.norm_in = TimeLayerNorm(inputs)
        self.linear = Linear(inputs, ratio**2 * width)
        self.norm_out = TimeLayerNorm(width)

    def forward(self, x: Tensor, t: Tensor, grid: tuple[int, int]) -> Tensor:
        """`grid` is the coarse one. A cell's features are ordered (row, column, feature) of its finer cells."""
        r = self.ratio
        x = self.linear(self.norm_in(x, t)).unflatten(1, grid).unflatten(-1, (r, r, -1))
        return self.norm_out(x.transpose(2, 3).flatten(1, 4), t)
