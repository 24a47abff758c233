"""A small convolutional autoencoder, fitted to the data, whose decoder forgives a latent that is a little off."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from bridgeflow.modality import Progress
from bridgeflow.runtime.precision import Precision, choose_precision
from bridgeflow.settings import Settings
from bridgeflow_plugins.image_latent.codecs import FittedCodec, pixels_of_levels
from bridgeflow_plugins.image_latent.fitting import minimise, reconstruction

MEASURED = 512
"""Pictures that mean and spread of the latent are measured on."""


class ConvSettings(Settings):
    """An autoencoder of 3x3 convolutions; latent (latent_channels, H / factor, W / factor), each channel of mean 0 and
    variance 1, where factor is `patch` times 2 for every width after the first."""

    name: Literal["conv"] = "conv"
    latent_channels: PositiveInt = 8
    """Channels of the latent."""
    patch: PositiveInt = 4
    """Pixels per axis folded into channels before the first convolution: 4 is sixteen times as quick as 1."""
    widths: tuple[PositiveInt, ...] = Field((64, 96), min_length=1)
    """Features at each resolution, finest first; each but the first halves both sides."""
    noise: float = Field(0.2, ge=0)
    """Standard deviation of Gaussian noise on the latent in fitting. The decoder learns to draw a clean picture from a
    latent that is off by as much, and neighbouring latents come to mean neighbouring pictures."""
    steps: PositiveInt = 1000
    """Optimiser steps of fitting."""
    batch_size: PositiveInt = 16
    """Pictures in a step of fitting."""
    learning_rate: float = Field(1e-3, gt=0)
    """First learning rate of Adam; it falls to zero along a cosine."""
    seed: int = 0
    """Seed of the first weights, of the order of the pictures and of the latent's noise in fitting."""
    precision: Precision = "auto"
    """dtype of products and convolutions in fitting; auto measures whether bf16 is quicker here."""

    def build(self) -> ConvCodec:
        """The codec, to be fitted."""
        return ConvCodec(self)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity; the last one begins at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(
            _norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(next(n for n in (8, 4, 2, 1) if channels % n == 0), channels)


def _encoder(settings: ConvSettings) -> nn.Sequential:
    first, *others = settings.widths
    layers: list[nn.Module] = [nn.PixelUnshuffle(settings.patch)]
    layers += [nn.Conv2d(3 * settings.patch**2, first, 3, padding=1), _Residual(first)]
    width = first
    for wider in others:
        layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1), _Residual(wider)]
        width = wider
    return nn.Sequential(*layers, _norm(width), nn.SiLU(), nn.Conv2d(width, settings.latent_channels, 1))


def _decoder(settings: ConvSettings) -> nn.Sequential:
    """The encoder's way back, twice as deep; the last convolutions see two pixels a cell where a cell has more."""
    *others, last = settings.widths
    layers: list[nn.Module] = [
        nn.Conv2d(settings.latent_channels, last, 3, padding=1),
        _Residual(last),
        _Residual(last),
    ]
    width = last
    for narrower in reversed(others):
        layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, narrower, 3, padding=1)]
        layers += [_Residual(narrower), _Residual(narrower)]
        width = narrower
    layers += [_norm(width), nn.SiLU()]
    cell = settings.patch
    if cell % 2 == 0 and cell > 2:
        fine = max(8, width // 2)
        layers += [nn.Conv2d(width, fine * (cell // 2) ** 2, 3, padding=1), nn.PixelShuffle(cell // 2)]
        layers += [_Residual(fine), nn.SiLU()]
        width, cell = fine, 2
    return nn.Sequential(*layers, nn.Conv2d(width, 3 * cell**2, 3, padding=1), nn.PixelShuffle(cell))


class ConvCodec(FittedCodec):
    """The autoencoder that `ConvSettings` describes; deterministic once it is fitted."""

    name = "conv"
    round_trip = 0.5
    most_pictures = 32768

    def __init__(self, settings: ConvSettings) -> None:
        super().__init__()
        self.settings = settings
        self.channels = settings.latent_channels
        self.multiple = settings.patch * 2 ** (len(settings.widths) - 1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            self.encoder, self.decoder = _encoder(settings), _decoder(settings)
        # No scale or shift of its own: nothing could undo what holds the latent's variance at 1 but the noise.
        self.standardise = nn.BatchNorm2d(self.channels, affine=False, momentum=None)

    def encode(self, pixels: Tensor) -> tuple[Tensor, None]:
        """The latent, without a standard deviation."""
        self._require_fit()
        latent: Tensor = self.standardise(self.encoder(pixels))
        return latent, None

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, 3, H, W)."""
        self._require_fit()
        pixels: Tensor = self.decoder(latent)
        return pixels

    def fit(self, levels: Tensor, progress: Progress | None = None) -> dict[str, float]:
        """Trains on pictures, uint8 (N, 3, H, W), then measures the latent's mean and variance.

        Returns `loss`, the mean over the last tenth of the steps.
        """
        device = next(self.parameters()).device
        draws = torch.Generator(device).manual_seed(self.settings.seed)

        def loss_of(pixels: Tensor) -> Tensor:
            latent = self.standardise(self.encoder(pixels).float())
            noisy = latent + self.settings.noise * torch.randn(latent.shape, generator=draws, device=device)
            return reconstruction(self.decoder(noisy).float(), pixels)

        in_bf16 = choose_precision(self.settings.precision, device) == "bf16"
        loss = minimise(self, loss_of, levels, self.settings, device, progress, in_bf16)
        self._measure(levels[:MEASURED], device)
        self.fitted = True
        return {"loss": loss}

    @torch.no_grad()
    def _measure(self, levels: Tensor, device: torch.device) -> None:
        """Mean and variance of each channel on these pictures, under the last weights."""
        latents = torch.cat([self.encoder(pixels_of_levels(part).to(device)) for part in levels.split(64)])
        mean, variance = self.standardise.running_mean, self.standardise.running_var
        assert mean is not None
        assert variance is not None
        mean.copy_(latents.mean((0, 2, 3)))
        variance.copy_(latents.var((0, 2, 3), correction=0).clamp_min(1e-6))
