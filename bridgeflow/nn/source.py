"""Source encoders: how a source latent becomes z0, the start of the flow, in the target's shape."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.encoded import Encoded, SourceEncoder, SourceEncoderSettings
from bridgeflow.nn.patches import Patches
from bridgeflow.nn.standardise import BatchStandardise
from bridgeflow.nn.token_encoder import TokenEncoder, TokenEncoderSettings
from bridgeflow.runtime import collective
from bridgeflow.runtime.randomness import Randomness, normal


class LearnedSourceSettings(TokenEncoderSettings, SourceEncoderSettings):
    """What the learned encoders share."""

    mean_norm: Literal["none", "batch"] = "none"
    """`batch`: mu is standardised per dimension over the batch (no learned scale), so that it cannot shrink;
    needs batches of several rows. Its running statistics are measured anew for averaged weights."""
    mean_scale: float = Field(default=1.0, gt=0)
    """Standard deviation of the standardised mu, for mean_norm=batch. What of mu the network cannot resolve yet is
    noise to it: below 1 it draws well sooner, and depends on the source later."""
    attend: bool = False
    """Whether the network may attend to the source's own tokens too, as it does for source_encoder.name=noise; not so
    in the paper."""

    @model_validator(mode="after")
    def _only_a_standardised_mean_is_scaled(self) -> Self:
        if self.mean_scale != 1 and self.mean_norm == "none":
            raise ValueError("mean_scale is for mean_norm=batch: set that, or leave mean_scale at 1")
        return self


class DirectSource(SourceEncoder):
    """z0 is the source latent itself, with noise around it where sigma is above 0; it must have the target's shape."""

    takes_any_size = True

    def __init__(self, source: LatentSpec, target: LatentSpec, sigma: float = 0.0) -> None:
        super().__init__()
        self.sigma = sigma
        if source.shape != target.shape:
            raise UsageError(
                f"source_encoder 'direct' needs source and target of one shape, but the source is {source} and the "
                f"target {target}: make their sizes agree or set source_encoder.name=deterministic."
            )

    def latent_of(self, z0: Tensor) -> Tensor:
        """The start itself."""
        return z0

    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """z0 as given, sampled where the source latent has a std; `sample=False` gives its mean, without noise."""
        if not sample:
            return Encoded(source.mean)
        z0 = source.sample(generator)
        return Encoded(z0 + self.sigma * normal(z0.shape, generator, z0), z0) if self.sigma else Encoded(z0)


class LearnedSource(SourceEncoder):
    """mu by a transformer; z0 = mu, mu + sigma eps with sigma set, or mu + exp(logvar / 2) eps."""

    learned = True

    def __init__(
        self, settings: LearnedSourceSettings, source: LatentSpec, target: LatentSpec, sigma: float | None
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.encoder = TokenEncoder(source, target, settings, outputs=2 if sigma is None else 1)
        self.mean_norm = BatchStandardise(target.size) if settings.mean_norm == "batch" else None
        self.mean_scale = settings.mean_scale
        self.attend = settings.attend

    @property
    def context(self) -> LatentSpec | None:
        """The source's tokens, where the network may attend to them."""
        return _as_context(self.encoder.source) if self.attend else None

    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """See `SourceEncoder.forward`; `sample=False` gives z0 = mu."""
        latent = source.sample(generator) if sample else source.mean
        parts = self.encoder(latent, source.mask)
        mu = parts[0]
        if self.mean_norm is not None:
            if self.mean_norm.training and len(mu) * collective.world() < 2:
                raise UsageError(
                    "source_encoder.mean_norm=batch cannot standardise over a batch of one: set training.batch_size=2 "
                    "or more, or source_encoder.mean_norm=none."
                )
            mu = self.mean_scale * self.mean_norm(mu.flatten(1)).view_as(mu)
        logvar = parts[1] if self.sigma is None else None
        z0 = mu
        if sample and self.sigma != 0:
            spread: Tensor | float = (0.5 * logvar).exp() if logvar is not None else self.sigma or 0.0
            z0 = mu + spread * normal(mu.shape, generator, mu)
        if not self.attend:
            return Encoded(z0, mu, logvar)
        tokens = self.encoder.source
        return Encoded(z0, mu, logvar, tokens.split(latent), tokens.mask(source.mask))


def _as_context(tokens: Patches) -> LatentSpec:
    return LatentSpec((tokens.count, tokens.width), "sequence")


class NoiseSource(SourceEncoder):
    """z0 is Gaussian noise; the source is given to the network as a context to attend to: the usual way of
    conditional generation, to hold bridges against."""

    def __init__(self, source: LatentSpec, target: LatentSpec, patch: int | None) -> None:
        super().__init__()
        self.patches = Patches(source, patch, "source_encoder.patch")
        self.target = target

    @property
    def context(self) -> LatentSpec | None:
        """One position per source token."""
        return _as_context(self.patches)

    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """Noise is drawn whether or not `sample` is set."""
        latent = source.sample(generator) if sample else source.mean
        noise = normal((len(source), *self.target.shape), generator, latent)
        return Encoded(noise, context=self.patches.split(latent), context_mask=self.patches.mask(source.mask))


class DirectSourceSettings(SourceEncoderSettings):
    """The source latent as it is."""

    name: Literal["direct"] = "direct"
    sigma: float = Field(default=0.0, ge=0)
    """Standard deviation of noise around the source latent. Above 0, results for one source differ, and differ most
    where the source leaves them open; 0 draws nothing."""

    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """Refuses latents of different shapes."""
        return DirectSource(source, target, self.sigma)


class DeterministicSourceSettings(LearnedSourceSettings):
    """A learned z0 without noise."""

    name: Literal["deterministic"] = "deterministic"

    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """A learned encoder with sigma 0."""
        return LearnedSource(self, source, target, sigma=0.0)


class NoisySourceSettings(LearnedSourceSettings):
    """A learned mean with Gaussian noise of a set size."""

    name: Literal["noisy"] = "noisy"
    sigma: float = Field(default=0.5, gt=0)
    """Standard deviation of the noise."""

    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """A learned encoder with that sigma."""
        return LearnedSource(self, source, target, sigma=self.sigma)


class VariationalSourceSettings(LearnedSourceSettings):
    """A learned mean and variance (CrossFlow, section 3.2); hold it with `kl` and `encoding`."""

    name: Literal["variational"] = "variational"

    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """A learned encoder with a variance of its own."""
        return LearnedSource(self, source, target, sigma=None)


class NoiseSourceSettings(SourceEncoderSettings):
    """Gaussian noise, with the source by cross-attention."""

    name: Literal["noise"] = "noise"
    patch: int | None = Field(default=None, ge=1)
    """Cells per axis of a source grid that make a context token; None: as many as leave at most 256 of them."""

    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """The baseline without a learned source."""
        return NoiseSource(source, target, self.patch)
