"""Source encoders: how a source latent becomes z0, the start of the flow, in the target's shape."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.attention import TransformerBlock
from bridgeflow.nn.encoded import Encoded, SourceEncoder, SourceEncoderSettings
from bridgeflow.nn.patches import Patches, grid_positions
from bridgeflow.nn.recompute import Recomputing
from bridgeflow.nn.standardise import BatchStandardise
from bridgeflow.runtime import collective
from bridgeflow.runtime.randomness import Randomness, normal
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
    """z0 is the source latent itself; it must have the target's shape."""

    takes_any_size = True

    def __init__(self, source: LatentSpec, target: LatentSpec) -> None:
        super().__init__()
        if source.shape != target.shape:
            raise UsageError(
                f"source_encoder 'direct' needs source and target of one shape, but the source is {source} and the "
                f"target {target}: make their sizes agree or set source_encoder.name=deterministic."
            )

    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """z0 as given, sampled where the source latent has a std."""
        return Encoded(source.sample(generator) if sample else source.mean)


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

    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """Refuses latents of different shapes."""
        return DirectSource(source, target)


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
