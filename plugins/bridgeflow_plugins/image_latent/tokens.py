"""A transformer autoencoder whose latent is a short sequence instead of a grid.

After TiTok (Yu et al., arXiv 2406.07550) and FlowTok (He et al., arXiv 2503.10772): patches of the picture and a few
learned queries attend to each other, and what the queries have become is the latent, so that words and pictures can be
sequences of one shape. The decoder has one mask token for every patch, which reads the picture out of the sequence.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from bridgeflow.modality import LatentSpec, Progress
from bridgeflow.nn.modern import RotaryAttention, SwiGLU, rotations
from bridgeflow.nn.ops import rms_norm
from bridgeflow.nn.patches import Patches
from bridgeflow.runtime.precision import Precision, choose_precision
from bridgeflow.settings import Settings
from bridgeflow_plugins.image_latent.codecs import FittedCodec, pixels_of_levels
from bridgeflow_plugins.image_latent.fitting import minimise, reconstruction

MEASURED = 512
"""Pictures that mean and spread of the latent are measured on."""


class TokensSettings(Settings):
    """An autoencoder of two transformers; latent a sequence (count, latent_channels), each channel of mean 0 and
    variance 1, with a standard deviation of its own where `kl_weight` is above 0."""

    name: Literal["tokens"] = "tokens"
    count: PositiveInt = 32
    """Tokens of a picture; 77 in FlowTok, as many as CLIP has for words."""
    latent_channels: PositiveInt = 16
    """Features of a token."""
    patch: PositiveInt = 8
    """Pixels per axis that make a patch, of encoder and decoder; 16 in FlowTok."""
    width: PositiveInt = 128
    """Features inside both transformers."""
    depth: PositiveInt = 4
    """Blocks of each."""
    heads: PositiveInt = 4
    """Attention heads; they divide the width."""
    kl_weight: float = Field(1e-4, ge=0)
    """Weight of the Kullback-Leibler divergence from a unit Gaussian, a mean over the latent's numbers; 0 makes the
    latent deterministic."""
    noise: float = Field(0.2, ge=0)
    """Standard deviation of Gaussian noise on the standardised latent in fitting, so that the decoder forgives a latent
    that is a little off."""
    steps: PositiveInt = 2000
    """Optimiser steps of fitting."""
    batch_size: PositiveInt = 16
    """Pictures in a step of fitting."""
    learning_rate: float = Field(1e-3, gt=0)
    """First learning rate of Adam; it falls to zero along a cosine."""
    seed: int = 0
    """Seed of the first weights, of the order of the pictures and of what is drawn in fitting."""
    precision: Precision = "auto"
    """dtype of products in fitting; auto measures whether bf16 is quicker here."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, but {self.width} is no multiple of {self.heads}")
        return self

    def build(self) -> TokensCodec:
        """The codec, to be fitted."""
        return TokensCodec(self)


class Block(nn.Module):
    """Attention with rotary positions and a gated MLP, each behind a root mean square norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.Parameter(torch.ones(2, 1, 1, width))
        self.attention, self.mlp = RotaryAttention(width, heads), SwiGLU(width, 4.0)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """Tokens (B, N, width) to the same; turns: see `rotations`."""
        x = x + self.attention(rms_norm(x, self.norms[0]), turns).to(x.dtype)
        return x + self.mlp(rms_norm(x, self.norms[1])).to(x.dtype)


class Transformer(nn.Module):
    """Tokens that stand in a line, then those of a grid, through blocks in which all attend to all."""

    def __init__(self, settings: TokensSettings) -> None:
        super().__init__()
        self.head_width = settings.width // settings.heads
        self.blocks = nn.ModuleList(Block(settings.width, settings.heads) for _ in range(settings.depth))
        self.norm = nn.Parameter(torch.ones(1, 1, settings.width))

    def forward(self, line: Tensor, grid: Tensor, sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(B, K, width) and (B, h w, width), with the grid's (h, w), to the same."""
        turns = rotations(sizes, self.head_width, before=line.shape[1]).to(line.device)
        x = torch.cat([line, grid], dim=1)
        for block in self.blocks:
            x = block(x, turns)
        x = rms_norm(x, self.norm)
        return x[:, : line.shape[1]], x[:, line.shape[1] :]


class TokensCodec(FittedCodec):
    """The autoencoder that `TokensSettings` describes."""

    name = "tokens"
    round_trip = 0.5
    most_pictures = 32768

    def __init__(self, settings: TokensSettings) -> None:
        super().__init__()
        self.settings = settings
        self.channels, self.multiple = settings.latent_channels, settings.patch
        width, cells = settings.width, 3 * settings.patch**2
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            self.embed = nn.Linear(cells, width)
            self.queries = nn.Parameter(0.02 * torch.randn(settings.count, width))
            self.encoder = Transformer(settings)
            self.to_latent = nn.Linear(width, (2 if settings.kl_weight else 1) * self.channels)
            self.from_latent = nn.Linear(self.channels, width)
            self.places = nn.Parameter(0.02 * torch.randn(settings.count, width))
            self.mask = nn.Parameter(0.02 * torch.randn(width))
            self.decoder = Transformer(settings)
            self.to_pixels = nn.Linear(width, cells)
        # No scale or shift of its own: nothing could undo what holds the latent's variance at 1 but the noise.
        self.standardise = nn.BatchNorm1d(self.channels, affine=False, momentum=None)

    def spec(self, height: int, width: int) -> LatentSpec:
        """The sequence (count, channels), whatever the size."""
        return LatentSpec((self.settings.count, self.channels), "sequence")

    def _patches(self, height: int, width: int) -> Patches:
        return Patches(LatentSpec((3, height, width), "grid"), self.settings.patch)

    def _encoded(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and logarithm of the variance, (B, count, channels), not yet standardised."""
        patches = self._patches(*pixels.shape[2:])
        height, width = patches.grid
        line = self.queries.expand(len(pixels), -1, -1)
        tokens, _ = self.encoder(line, self.embed(patches.split(pixels)), (height, width))
        found = self.to_latent(tokens).float()
        if not self.settings.kl_weight:
            return found, None
        mean, logvar = found.chunk(2, dim=-1)
        return mean, logvar.clamp(-20, 4)

    def _decoded(self, latent: Tensor, sizes: tuple[int, int]) -> Tensor:
        patches = self._patches(*sizes)
        height, width = patches.grid
        line = self.from_latent(latent) + self.places
        grid = self.mask.expand(len(latent), patches.count, -1)
        _, drawn = self.decoder(line, grid, (height, width))
        return patches.join(self.to_pixels(drawn))

    def _standardised(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.standardise(tokens.transpose(1, 2)).transpose(1, 2)
        return found

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation of the latent, (B, count, channels)."""
        self._require_fit()
        mean, logvar = self._encoded(pixels)
        variance = self.standardise.running_var
        assert variance is not None
        std = None if logvar is None else (0.5 * logvar).exp() * variance.rsqrt()
        return self._standardised(mean), std

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) of the modality's size, which a sequence does not tell."""
        self._require_fit()
        return self._decoded(latent, self.sizes)

    def fit(self, levels: Tensor, progress: Progress | None = None) -> dict[str, float]:
        """Trains on pictures, uint8 (N, 3, H, W), then measures the latent's mean and variance.

        Returns `loss`, the mean over the last tenth of the steps.
        """
        settings, device = self.settings, next(self.parameters()).device
        draws = torch.Generator(device).manual_seed(settings.seed)

        def noise(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=draws, device=device)

        def loss_of(pixels: Tensor) -> Tensor:
            mean, logvar = self._encoded(pixels)
            drawn, divergence = mean, torch.zeros((), device=device)
            if logvar is not None:
                drawn = mean + (0.5 * logvar).exp() * noise(mean)
                divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
            latent = self._standardised(drawn)
            latent = latent + settings.noise * noise(latent)
            found = reconstruction(self._decoded(latent, (pixels.shape[2], pixels.shape[3])).float(), pixels)
            return found + settings.kl_weight * divergence

        in_bf16 = choose_precision(settings.precision, device) == "bf16"
        loss = minimise(self, loss_of, levels, settings, device, progress, in_bf16)
        self._measure(levels[:MEASURED], device)
        self.fitted = True
        return {"loss": loss}

    @torch.no_grad()
    def _measure(self, levels: Tensor, device: torch.device) -> None:
        """Mean and variance of each channel on these pictures, of draws where the latent is one, under the last
        weights."""
        parts = [self._encoded(pixels_of_levels(part).to(device)) for part in levels.split(64)]
        means = torch.cat([mean for mean, _ in parts])
        spread = [logvar.exp() for _, logvar in parts if logvar is not None]
        mean, variance = self.standardise.running_mean, self.standardise.running_var
        assert mean is not None
        assert variance is not None
        mean.copy_(means.mean((0, 1)))
        drawn = torch.cat(spread).mean((0, 1)) if spread else torch.zeros_like(variance)
        variance.copy_((means.var((0, 1), correction=0) + drawn).clamp_min(1e-6))
