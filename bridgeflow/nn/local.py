"""A source encoder that learns nothing: each token of the source lies in values of the start that are its own."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.encoded import Encoded, SourceEncoder, SourceEncoderSettings
from bridgeflow.nn.patches import Patches
from bridgeflow.runtime.randomness import Randomness, normal


class Spans:
    """The values of a latent (C, *sizes) or (N, C), cell by cell, in `count` spans of equal length; what is left over
    at the end belongs to none."""

    def __init__(self, latent: LatentSpec, count: int) -> None:
        """Raises ValueError where there are more spans than values."""
        self.cells = Patches(latent)
        self.count = count
        self.length = latent.size // count
        """Values of a span."""
        self.rest = latent.size - count * self.length
        if not self.length:
            raise ValueError(f"{count} spans of a latent of {latent.size} values")

    def split(self, z: Tensor) -> Tensor:
        """(B, *latent shape) to (B, count, length)."""
        values = self.cells.split(z).flatten(1)
        return values[:, : values.shape[1] - self.rest].unflatten(1, (self.count, self.length))

    def join(self, spans: Tensor) -> Tensor:
        """(B, count, length) to (B, *latent shape), with zeros for what is left over."""
        values = F.pad(spans.flatten(1), (0, self.rest))
        return self.cells.join(values.unflatten(1, (self.cells.count, self.cells.width)))


class LocalSource(SourceEncoder):
    """mu: each source token, standardised over its features, times one fixed random matrix, in a span of its own;
    z0 = mean_scale mu + sigma eps."""

    def __init__(self, settings: LocalSourceSettings, source: LatentSpec, target: LatentSpec) -> None:
        super().__init__()
        self.patches = Patches(source, settings.patch, "source_encoder.patch")
        if self.patches.count > target.size:
            raise UsageError(
                f"source_encoder.name=local gives each of the source's {self.patches.count} tokens values of its own, "
                f"but the target ({target}) has {target.size}: set a larger source_encoder.patch, or another encoder."
            )
        self.spans = Spans(target, self.patches.count)
        self.sigma, self.mean_scale = settings.sigma, settings.mean_scale
        width = self.patches.width
        # Drawn once and saved with the weights: a code that moved while the flow is learned would be learned too late.
        # Angles between tokens stay about what they are (Johnson and Lindenstrauss), and each value has variance 1.
        self.projection: Tensor
        self.register_buffer("projection", torch.randn(width, self.spans.length) * width**-0.5)

    def code(self, features: Tensor) -> Tensor:
        """See `SourceEncoder.code`; of variance 1."""
        # In float32: the codes of words have to be told apart through the noise, and the product costs nothing.
        features = features.to(self.projection.device, torch.float32)
        return F.layer_norm(features, features.shape[-1:]) @ self.projection.float()

    def codes_of(self, mu: Tensor) -> Tensor:
        """See `SourceEncoder.codes_of`; padding is 0."""
        return self.spans.split(mu.float()) / self.mean_scale

    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """See `SourceEncoder.forward`; `sample=False` gives z0 = mu. Padding has mu 0."""
        latent = source.sample(generator) if sample else source.mean
        codes = self.code(self.patches.split(latent))
        real = self.patches.mask(source.mask)
        if real is not None:
            codes = codes * real[:, :, None]
        mu = self.mean_scale * self.spans.join(codes)
        if not sample or self.sigma == 0:
            return Encoded(mu, mu)
        return Encoded(mu + self.sigma * normal(mu.shape, generator, mu), mu)


class LocalSourceSettings(SourceEncoderSettings):
    """Each source token in values of its own of the start, by a fixed random projection: what a network needs to read
    words where they stand."""

    name: Literal["local"] = "local"
    sigma: float = Field(default=0.6, ge=0)
    """Standard deviation of the noise around mu."""
    mean_scale: float = Field(default=0.8, gt=0)
    """Standard deviation of mu. A token of n values is told apart by n/2 log2(1 + (mean_scale / sigma)^2) bits."""
    patch: int | None = Field(default=None, ge=1)
    """Cells per axis of a source grid that make a token; 1 for sequences. None: the smallest power of 2 that leaves at
    most 256 tokens."""

    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """Refuses sources of more tokens than the target has values."""
        return LocalSource(self, source, target)
