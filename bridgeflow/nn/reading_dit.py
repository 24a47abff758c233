"""A transformer that first reads the source in its state, takes it off, and goes on with what it has read.

A flow from words alone has nothing but its state z_t = (1 - t) (mu + sigma eps) + t z1 to know the words from. A
network that predicts the velocity of such states at once has to decode mu and to denoise with it in the same layers,
and learns neither for long. Here a small transformer decodes mu, which is quickly learned under a loss of its own; what
is left of the state is that of a flow from noise, whose velocity is predicted with the decoded tokens beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.flow.path import expand
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dit import EPSILON, DiTBlock, TransformerSettings
from bridgeflow.nn.local import Spans
from bridgeflow.nn.ops import layer_norm
from bridgeflow.nn.patches import Patches, grid_positions, zero_linear
from bridgeflow.nn.recompute import Recomputing
from bridgeflow.nn.velocity import Conditioning, VelocityNet


class ReadingDiTSettings(TransformerSettings):
    """A transformer that reads the source out of its state first, for flows that start from words alone. `depth` are
    the blocks that predict the velocity."""

    name: Literal["reading_dit"] = "reading_dit"
    spans: int = Field(default=24, ge=1)
    """Equal parts of the state, cell by cell, that are read as tokens: as many as the source has tokens that
    `source_encoder.name=local` gives values of their own."""
    reading_depth: int = Field(default=2, ge=0)
    """Blocks that read the source."""
    reading_weight: float = Field(default=0.5, gt=0)
    """Weight of the squared error of the source that is read, each row's times 1 - t."""

    def build(self, latent: LatentSpec, context: LatentSpec | None = None) -> VelocityNet:
        """The network. Raises UsageError where there is a context, or a span would have no value."""
        if context is not None:
            raise UsageError(
                "network.name=reading_dit has its state alone and attends to no context: set "
                "source_encoder.attend=false, or choose network.name=dit."
            )
        if self.spans > latent.size:
            raise UsageError(f"network.spans is {self.spans}, but the latent ({latent}) has {latent.size} values.")
        return ReadingDiT(self, latent)


def _blocks(settings: ReadingDiTSettings, depth: int) -> nn.ModuleList:
    blocks = (DiTBlock(settings.width, settings.heads, settings.mlp_ratio, reading=True) for _ in range(depth))
    return nn.ModuleList(blocks)


class _Untrained(torch.autograd.Function):
    """The value itself, through which no weight is trained. `detach` would also end derivatives in forward mode, which
    average velocities are learned by."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        return None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0].view_as(tangents[0])


class SourceReader(Recomputing):
    """mu, and tokens that know it, from a state: each span of it is a token, and they attend to each other."""

    def __init__(self, settings: ReadingDiTSettings, latent: LatentSpec) -> None:
        super().__init__()
        width = settings.width
        self.spans = Spans(latent, settings.spans)
        self.embed = nn.Linear(self.spans.length, width)
        self.positions = nn.Parameter(0.02 * torch.randn(settings.spans, width))
        self.conditioning = Conditioning(width, False, False)
        self.blocks = _blocks(settings, settings.reading_depth)
        self.norm = nn.LayerNorm(width)
        self.head = zero_linear(width, self.spans.length)

    def forward(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, *shape), t (B,) to mu (B, *shape) and tokens (B, spans, width)."""
        # Null rows keep their source: what is read does not depend on the indicator.
        condition = self.conditioning(t, torch.zeros_like(t, dtype=torch.bool), None)
        tokens = self.embed(self.spans.split(z)) + self.positions
        for block in self.blocks:
            tokens = self.call(block, tokens, condition, None, None)
        tokens = self.norm(tokens)
        return self.spans.join(self.head(tokens)), tokens


class Painter(Recomputing):
    """The velocity of what is left of a state, with the tokens that were read beside those of its own."""

    def __init__(self, settings: ReadingDiTSettings, latent: LatentSpec) -> None:
        super().__init__()
        width = settings.width
        self.patches = Patches(latent, settings.patch)
        self.embed = nn.Linear(self.patches.width, width)
        self.positions: Tensor
        self.register_buffer("positions", grid_positions(self.patches.grid, width), persistent=False)
        self.conditioning = Conditioning(width, settings.second_time, True)
        self.blocks = _blocks(settings, settings.depth)
        self.modulation = nn.Sequential(nn.SiLU(), zero_linear(width, 2 * width))
        self.head = zero_linear(width, self.patches.width)

    def forward(self, z: Tensor, tokens: Tensor, t: Tensor, null: Tensor, r: Tensor | None) -> Tensor:
        """z (B, *shape), tokens (B, M, width), t (B,), null (B,), r (B,) or None to (B, *shape)."""
        condition = self.conditioning(t, null, r)
        own = self.embed(self.patches.split(z)) + self.positions
        x = torch.cat([own, tokens.to(own.dtype)], dim=1)
        for block in self.blocks:
            x = self.call(block, x, condition, None, None)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        x = layer_norm(x[:, : self.patches.count], 1 + scale, shift, EPSILON)
        return self.patches.join(self.head(x))


class ReadingDiT(VelocityNet):
    """The network that `ReadingDiTSettings` describes."""

    def __init__(self, settings: ReadingDiTSettings, latent: LatentSpec) -> None:
        super().__init__()
        self.reading_weight = settings.reading_weight
        self.reader, self.painter = SourceReader(settings, latent), Painter(settings, latent)
        # v = z1 - mu - sigma eps holds all of mu; where the target is predicted instead, this is learned to be 0.
        self.share = nn.Parameter(-torch.ones(1))

    def read_source(self, z: Tensor, t: Tensor) -> Tensor:
        """See `VelocityNet.read_source`."""
        mu: Tensor = self.reader(z, t)[0]
        return mu.float()

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        null: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        r: Tensor | None = None,
    ) -> Tensor:
        """See `VelocityNet.forward`."""
        mu, tokens = self.reader(z, t)
        # It is trained to be mu by its own loss alone: that of the velocity would have it guess at z1 as well.
        mu = _Untrained.apply(mu)
        left = z - expand(1 - t, z) * mu.to(z.dtype)
        velocity: Tensor = self.painter(left, tokens, t, null, r)
        return (velocity + self.share * mu).to(z.dtype)

    def hidden_layers(self) -> Sequence[tuple[nn.Module, int]]:
        """The blocks that predict the velocity."""
        return [(block, self.painter.embed.out_features) for block in self.painter.blocks]

    def hidden_map(self, hidden: Tensor) -> Tensor:
        """See `VelocityNet.hidden_map`; without the tokens that were read."""
        patches = self.painter.patches
        return hidden[:, : patches.count].transpose(1, 2).unflatten(2, patches.grid)

    def compiled_parts(self) -> Sequence[nn.Module]:
        """Each of the two."""
        return [self.reader, self.painter]
