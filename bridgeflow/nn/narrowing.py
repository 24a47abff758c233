"""The source encoder of CrossFlow: tokens that a transformer narrows until, laid end to end, they fit the target.

Source: CrossFlow (arXiv 2412.15213), section 3.2, "Text Variational Encoder".
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.attention import attend
from bridgeflow.nn.encoded import Encoded, SourceEncoder, SourceEncoderSettings
from bridgeflow.nn.recompute import Recomputing
from bridgeflow.runtime.randomness import Randomness, normal

EPSILON = 1e-5
"""Added to the standard deviation in the norm of a layer."""


class NarrowingSourceSettings(SourceEncoderSettings):
    """CrossFlow's own encoder of a sequence: layers of full width, then layers that halve it, then one map of all
    tokens together to the target's latent."""

    name: Literal["narrowing"] = "narrowing"
    depth: int = Field(default=11, ge=0)
    """Layers at full width."""
    narrowings: int = Field(default=3, ge=0)
    """Layers after each of which the width is halved."""
    heads: int = Field(default=8, ge=1)
    """Attention heads; they divide every width."""
    hidden: int = Field(default=1024, ge=8)
    """Features inside the feed-forward of every layer."""
    compress: int | None = Field(default=None, ge=8)
    """Width that tokens are brought to first, where the source's is too wide (T5: 4096 to 1024)."""
    tail: Literal["linear", "conv"] = "linear"
    """From the tokens laid end to end to the latent: one linear layer, or two and three convolutions on the
    target's grid."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of attention weights, inside the feed-forward, and before each residual sum."""
    sigma: float | None = Field(default=None, ge=0)
    """Standard deviation of the noise on z0; none means that it is learned, as a variational source."""

    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """Refuses sources that are no sequence and widths that do not divide."""
        return NarrowingSource(self, source, target)


class UnbiasedLayerNorm(nn.Module):
    """(x - mean) / (std + eps) * weight + bias, with the unbiased standard deviation and eps outside the root."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Over the last axis, in float32."""
        x = x.float()
        std, mean = torch.std_mean(x, dim=-1, keepdim=True)
        return (x - mean) / (std + EPSILON) * self.weight + self.bias


class MaskedSelfAttention(nn.Module):
    """Multi-head self-attention over real keys, with dropout of its weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, N, width); mask: bool (B, N), True where a token is real."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return self.out(attend(q, k, v, mask, self.dropout if self.training else 0.0).transpose(1, 2).flatten(2))


class PostNormLayer(nn.Module):
    """Attention and a ReLU feed-forward, each normalised after its residual sum."""

    def __init__(self, width: int, settings: NarrowingSourceSettings) -> None:
        super().__init__()
        rate = settings.dropout
        self.attention = MaskedSelfAttention(width, settings.heads, rate)
        self.norm_attention = UnbiasedLayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, width), nn.Dropout(rate)
        )
        self.norm_mlp = UnbiasedLayerNorm(width)
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, width) to the same."""
        x = self.norm_attention(x + self.dropout(self.attention(x, mask)))
        return self.norm_mlp(x + self.dropout(self.mlp(x)))


class Narrowing(nn.Module):
    """A layer, then each token at half its width."""

    def __init__(self, width: int, settings: NarrowingSourceSettings) -> None:
        super().__init__()
        self.layer = PostNormLayer(width, settings)
        self.narrow = nn.Linear(width, width // 2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, width) to (B, N, width / 2)."""
        return self.narrow(self.layer(x, mask))


class Compress(nn.Module):
    """Wide tokens brought to a width that the layers can bear."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(inputs, width)
        self.norm = nn.LayerNorm(width)
        self.linear_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, inputs) to (B, N, width)."""
        return self.linear_out(F.relu(self.norm(self.linear_in(x))))


class LinearTail(nn.Module):
    """One linear layer from a vector to latents."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        return self.linear(x)


class ConvTail(nn.Module):
    """Two linear layers from a vector to a grid of one channel, then three convolutions to `channels` of it."""

    def __init__(self, inputs: int, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        cells = grid[0] * grid[1]
        self.grid = grid
        self.linear_in = nn.Linear(inputs, cells)
        self.norm_in = nn.LayerNorm(cells)
        self.linear = nn.Linear(cells, cells)
        self.norm = nn.LayerNorm(cells)
        self.conv_in = nn.Conv2d(1, 32, 3, padding=1)
        self.norm_conv_in = nn.LayerNorm((32, *grid))
        self.conv = nn.Conv2d(32, 64, 3, padding=1)
        self.norm_conv = nn.LayerNorm((64, *grid))
        self.conv_out = nn.Conv2d(64, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, channels h w), flat."""
        x = F.relu(self.norm_in(self.linear_in(x)))
        x = F.relu(self.norm(self.linear(x)))
        x = F.relu(self.norm_conv_in(self.conv_in(x.unflatten(1, (1, *self.grid)))))
        return self.conv_out(F.relu(self.norm_conv(self.conv(x)))).flatten(1)


def grid_of(target: LatentSpec, option: str) -> tuple[int, int]:
    """(h, w) of a (C, h, w) latent. Raises UsageError, naming the option that asks for one, for any other."""
    if target.layout != "grid" or len(target.shape) != 3:
        raise UsageError(f"{option}=conv needs a target (C, H, W), not {target}: set {option} to its other form.")
    return target.shape[1], target.shape[2]


class NarrowingSource(SourceEncoder, Recomputing):
    """The encoder that `NarrowingSourceSettings` describes."""

    learned = True

    def __init__(self, settings: NarrowingSourceSettings, source: LatentSpec, target: LatentSpec) -> None:
        super().__init__()
        if source.layout != "sequence":
            raise UsageError(
                f"source_encoder 'narrowing' takes a sequence, not {source}: set source_encoder.name=variational."
            )
        length, width = source.shape
        self.compress = Compress(width, settings.compress) if settings.compress else None
        width = settings.compress or width
        narrowest = width >> settings.narrowings
        if width % 2**settings.narrowings or any(
            (width >> n) % settings.heads for n in range(max(1, settings.narrowings))
        ):
            raise UsageError(
                f"source_encoder 'narrowing' cannot halve a width of {width} {settings.narrowings} times into "
                f"{settings.heads} heads: set source_encoder.compress, .narrowings or .heads."
            )
        self.sigma = settings.sigma
        self.target = target
        self.layers = nn.ModuleList(PostNormLayer(width, settings) for _ in range(settings.depth))
        self.narrowings = nn.ModuleList(Narrowing(width >> n, settings) for n in range(settings.narrowings))
        outputs = 2 if settings.sigma is None else 1
        self.tail: LinearTail | ConvTail
        if settings.tail == "linear":
            self.tail = LinearTail(length * narrowest, outputs * target.size)
        else:
            grid = grid_of(target, "source_encoder.tail")
            self.tail = ConvTail(length * narrowest, outputs * target.shape[0], grid)

    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """See `SourceEncoder.forward`; `sample=False` gives z0 = mu. Padding is read as it stands: only as a key
        of attention is it left out."""
        x = source.sample(generator) if sample else source.mean
        if self.compress is not None:
            x = self.compress(x)
        for layer in (*self.layers, *self.narrowings):
            x = self.call(layer, x, source.mask)
        flat = self.tail(x.flatten(1)).float()
        mu = flat[:, : self.target.size].unflatten(1, self.target.shape)
        if self.sigma is not None:
            noise = self.sigma * normal(mu.shape, generator, mu) if sample and self.sigma else 0.0
            return Encoded(mu + noise, mu)
        logvar = flat[:, self.target.size :].unflatten(1, self.target.shape)
        z0 = mu + (0.5 * logvar).exp() * normal(mu.shape, generator, mu) if sample else mu
        return Encoded(z0, mu, logvar)
