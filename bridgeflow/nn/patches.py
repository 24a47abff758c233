"""Tokens from latents of any layout and back, and where they stand."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec

MOST_TOKENS = 256
"""Tokens that a latent has at most, where nothing says how many cells make one: attention grows with their square."""


def usual_patch(spec: LatentSpec) -> int:
    """The smallest power of 2 that leaves a grid `MOST_TOKENS` tokens at most, as far as powers of 2 divide it; 1
    for sequences."""
    if spec.layout == "sequence":
        return 1
    sizes, patch = spec.shape[1:], 1
    while all(size % (2 * patch) == 0 for size in sizes) and math.prod(sizes) > MOST_TOKENS * patch ** len(sizes):
        patch *= 2
    return patch


class Patches:
    """The tokens of a latent: one per position of a sequence, one per patch^n cells of a grid of n axes.

    Raises UsageError, naming the option that set `patch`, where it does not fit the latent.
    """

    def __init__(self, spec: LatentSpec, patch: int | None = 1, option: str = "network.patch") -> None:
        """patch: cells per axis; None takes `usual_patch`."""
        self.spec = spec
        patch = usual_patch(spec) if patch is None else patch
        if spec.layout == "sequence":
            if patch != 1:
                raise UsageError(
                    f"{option} is {patch}, but a sequence latent ({spec}) has one token a position: set {option}=1."
                )
            self.grid: tuple[int, ...] = (spec.shape[0],)
            self.width = spec.shape[1]
        else:
            sizes = spec.shape[1:]
            if any(size % patch for size in sizes):
                raise UsageError(f"{option}={patch} does not divide the latent's {spec}: choose a divisor of {sizes}.")
            self.grid = tuple(size // patch for size in sizes)
            self.width = spec.shape[0] * patch ** len(sizes)
        self.patch = patch
        self.count = math.prod(self.grid)

    def split(self, z: Tensor) -> Tensor:
        """(B, *shape) to tokens (B, count, width)."""
        if self.spec.layout == "sequence":
            return z
        batch, channels = z.shape[:2]
        axes = len(self.grid)
        z = z.reshape(batch, channels, *(n for size in self.grid for n in (size, self.patch)))
        order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
        return z.permute(order).reshape(batch, self.count, self.width)

    def join(self, tokens: Tensor) -> Tensor:
        """Tokens (B, count, width) to (B, *shape); the inverse of `split`. A wider token gives more channels."""
        if self.spec.layout == "sequence":
            return tokens
        batch = tokens.shape[0]
        axes = len(self.grid)
        cells = self.patch**axes
        z = tokens.reshape(batch, *self.grid, tokens.shape[-1] // cells, *([self.patch] * axes))
        order = [0, 1 + axes, *(n for axis in range(axes) for n in (1 + axis, 2 + axes + axis))]
        return z.permute(order).reshape(batch, -1, *(size * self.patch for size in self.grid))

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """Which tokens hold anything real, bool (B, count), from a latent's mask."""
        if mask is None or self.spec.layout == "sequence":
            return mask
        tokens = Patches(LatentSpec((1, *self.spec.shape[1:]), "grid"), self.patch).split(mask.float())
        return tokens.amax(-1) > 0


def sinusoid(position: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """[cos, sin] features (N, width) of positions (N,), frequencies from 1 down to 1 / max_period."""
    half = width // 2
    frequency = torch.exp(-math.log(max_period) * torch.arange(half, device=position.device) / half)
    angle = position.to(torch.promote_types(position.dtype, torch.float32))[:, None] * frequency
    features = torch.cat([angle.cos(), angle.sin()], dim=1)
    return nn.functional.pad(features, (0, width - 2 * half))


def grid_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Fixed sinusoidal positions (count, width) of a grid's tokens, the width shared among its axes."""
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    share = width // len(grid) // 2 * 2
    features = torch.cat([sinusoid(axis.flatten(), share) for axis in axes], dim=1)
    return nn.functional.pad(features, (0, width - features.shape[1]))


class TimeEmbedding(nn.Module):
    """t (B,) in [0, 1] to (B, width) by a sinusoid of `scale` t and two linear layers."""

    def __init__(self, width: int, features: int = 128, scale: float = 1000.0) -> None:
        super().__init__()
        self.features = features
        self.scale = scale
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) to (B, width)."""
        return self.mlp(sinusoid(self.scale * t, self.features))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that gives zero until it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
