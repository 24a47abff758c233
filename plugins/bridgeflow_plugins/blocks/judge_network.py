"""The network behind the judge: a small convolutional detector without anchors.

As in CenterNet (Zhou et al., Objects as Points, arXiv 1904.07850) a heat map tells where the middle of a solid is, and
what stands there is read from the same place of the other maps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES

SIDE = 64
"""Width and height of the pictures that the network takes, in pixels."""
STRIDE = 2
"""Pixels from one cell of the maps to the next."""
CELLS = SIDE // STRIDE
UNCLEAR = len(SHAPES)
"""Class of what has a colour and a place but no shape that can be told."""
MIDDLE = 5.0
"""Distance ahead from which `place` is measured, in metres: about that of the middle of the world."""
CHANNELS = (16, 48, 80)


class Maps(NamedTuple):
    """What the network says of every cell, (B, n, CELLS, CELLS): logits, and numbers where a unit is named."""

    heat: Tensor
    """n = 1: a solid has its middle in the cell."""
    offset: Tensor
    """n = 2: from the middle of the cell to that of the solid, right and down, in cells."""
    colour: Tensor
    shape: Tensor
    """n = 5: the shapes, then UNCLEAR."""
    size: Tensor
    place: Tensor
    """n = 2: where the solid stands in the view, to the right and ahead of MIDDLE, in metres."""


WIDTHS = (1, 2, len(COLOURS), len(SHAPES) + 1, len(SIZES), 2)
"""Numbers that each of the Maps holds for a cell."""


class _Layer(nn.Sequential):
    """Convolution, normalisation, SiLU."""

    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(after), nn.SiLU())


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_Layer(channels, channels), _Layer(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        found: Tensor = x + self.layers(x)
        return found


class _Up(nn.Module):
    """Joins a grid with the one of half its size."""

    def __init__(self, below: int, beside: int, after: int) -> None:
        super().__init__()
        self.below, self.beside = _Layer(below, after, 1), _Layer(beside, after, 1)
        self.mix = _Layer(after, after)

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """(B, below, H, W) and (B, beside, 2H, 2W) to (B, after, 2H, 2W)."""
        found: Tensor = self.mix(self.beside(finer) + F.interpolate(self.below(x), scale_factor=2.0))
        return found


class JudgeNetwork(nn.Module):
    """Pictures (B, 3, 64, 64) in [-1, 1] to Maps.

    Down to a grid of 4 x 4, so that every cell knows of the whole scene and of how the camera looks at it, and back up.
    """

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = CHANNELS
        self.stem = nn.Sequential(_Layer(3 * STRIDE**2, fine), _Residual(fine))
        self.down = nn.ModuleList(
            nn.Sequential(_Layer(before, after, stride=2), _Residual(after))
            for before, after in ((fine, middle), (middle, coarse), (coarse, coarse))
        )
        self.up = nn.ModuleList([_Up(coarse, coarse, middle), _Up(middle, middle, middle), _Up(middle, fine, 2 * fine)])
        self.head = nn.Conv2d(2 * fine, sum(WIDTHS), 1)
        # Few cells hold a solid: a low start keeps the first steps from drowning in the empty ones.
        with torch.no_grad():
            self.head.bias[:1] = -4.0  # type: ignore[index]

    def forward(self, pictures: Tensor) -> Maps:
        """(B, 3, 64, 64) in [-1, 1] to Maps."""
        grids = [self.stem(F.pixel_unshuffle(pictures, STRIDE))]
        for step in self.down:
            grids.append(step(grids[-1]))
        x = grids.pop()
        for step in self.up:
            x = step(x, grids.pop())
        return Maps(*self.head(x).float().split(WIDTHS, dim=1))
