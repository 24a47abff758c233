"""DiMR: one network over several resolutions, a transformer on the coarsest grid and ConvNeXts on finer ones.

Source: Liu et al., "Alleviating Distortion in Image Generation via Multi-Resolution Diffusion Models" (arXiv
2406.09416), as CrossFlow (arXiv 2412.15213) uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dimr_blocks import AttentionBlock, ConvNeXtBlock, LongSkip, StageSettings, TimeLayerNorm, Upsample
from bridgeflow.nn.ops import convolution, linear
from bridgeflow.nn.recompute import Recomputing
from bridgeflow.nn.velocity import NetworkSettings, VelocityNet


class DiMRSettings(NetworkSettings):
    """A multi-resolution network; its velocity is the last stage's."""

    name: Literal["dimr"] = "dimr"
    stages: tuple[StageSettings, ...] = Field(
        default=(
            StageSettings(patch=2),
            StageSettings(kind="convnext", width=128, hidden=256, blocks=5),
        ),
        min_length=1,
    )
    """From the coarsest grid to the finest, whose patch is 1."""
    stage_weights: tuple[float, ...] = (0.25, 1.0)
    """Weight of each stage's flow loss: one a stage."""
    patch: int = Field(default=1, ge=1)
    """Cells per axis of the latent folded into channels before the first stage: for pixels rather than latents."""

    @model_validator(mode="after")
    def _stages_in_order(self) -> DiMRSettings:
        patches = [stage.patch for stage in self.stages]
        if patches[-1] != 1:
            raise ValueError(f"the last stage has patch 1, the latent's own grid, not {patches[-1]}")
        if any(coarse <= fine or coarse % fine for coarse, fine in pairwise(patches)):
            raise ValueError(f"each stage's patch is a multiple of the next one's, unlike {patches}")
        if len(self.stage_weights) != len(self.stages):
            raise ValueError(
                f"stage_weights gives one weight a stage: {len(self.stages)}, not {len(self.stage_weights)}"
            )
        return self

    def build(self, latent: LatentSpec, context: LatentSpec | None = None) -> VelocityNet:
        """The network; refuses a context, a second time, and latents that are not (C, H, W) or do not divide."""
        if latent.layout != "grid" or len(latent.shape) != 3:
            raise UsageError(f"network 'dimr' takes a grid latent (C, H, W), not {latent}: try network.name=dit.")
        if context is not None:
            raise UsageError(
                "network 'dimr' starts from the source and attends to no context: choose another source_encoder "
                "than 'noise', name conditions in conditioning.added, or set network.name=dit."
            )
        if self.second_time:
            raise UsageError("network 'dimr' has no second time: leave network.second_time out.")
        multiple = self.patch * self.stages[0].patch
        if any(size % multiple for size in latent.shape[1:]):
            raise UsageError(
                f"network 'dimr' with these patches needs sizes that are multiples of {multiple}: {latent}."
            )
        return DiMR(self, latent)


class Stage(Recomputing):
    """One resolution: its own view of the state, what the coarser stage saw, blocks with long skips, a velocity."""

    def __init__(self, settings: StageSettings, channels: int, grid: tuple[int, int], coarse: tuple[int, int]) -> None:
        """channels: of the latent. coarse: (features, ratio) of the coarser stage, or (0, 1) for the first."""
        super().__init__()
        width, half = settings.width, settings.blocks // 2
        self.grid = grid
        self.embed = nn.Conv2d(channels, width, settings.patch, stride=settings.patch)
        self.positions = nn.Parameter(0.02 * torch.randn(grid[0] * grid[1], width))
        self.upsample = Upsample(coarse[0], width, coarse[1]) if coarse[0] else None
        self.indicator_conditional: nn.Parameter | None = None
        self.indicator_null: nn.Parameter | None = None
        if settings.kind == "transformer":
            self.indicator_conditional = nn.Parameter(torch.ones(1))
            self.indicator_null = nn.Parameter(-torch.ones(1))
        block = AttentionBlock if settings.kind == "transformer" else ConvNeXtBlock
        self.blocks = nn.ModuleList(block(settings) for _ in range(settings.blocks))
        self.skips = nn.ModuleList(LongSkip(2 * width, width) for _ in range(half))
        self.norm_out = TimeLayerNorm(width)
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.features = (settings.blocks + 1) * width

    def forward(self, z: Tensor, t: Tensor, null: Tensor, coarse: Tensor | None, keep: bool) -> tuple[Tensor, Tensor]:
        """Velocity (B, C, h, w) on this grid, and where `keep` is set the features (B, h w, features) for the next.

        coarse: what the coarser stage kept.
        """
        # Laid out anew: of what has gaps a linear layer in half types rounds its product before it adds the bias.
        patches = F.pixel_unshuffle(z, self.embed.stride[0]).flatten(2).transpose(1, 2).contiguous()
        x = linear(patches, self.embed.weight.flatten(1), self.embed.bias) + self.positions
        if self.upsample is not None and coarse is not None:
            ratio = self.upsample.ratio
            x = x + self.upsample(coarse, t, (self.grid[0] // ratio, self.grid[1] // ratio))
        x = self._with_indicator(x, null)
        seen: list[Tensor] = [x]
        skips: list[Tensor] = []
        half = len(self.skips)
        for index, block in enumerate(self.blocks):
            if index > half:
                x = self.skips[index - half - 1](x, skips.pop())
            x = self.call(block, x, t, self.grid)
            if index < half:
                skips.append(x)
            seen.append(x)
        first = x.shape[1] - self.positions.shape[0]
        velocity = convolution(self.norm_out(x[:, first:], t), self.head, self.grid)
        kept = torch.cat([own[:, first:] for own in seen], dim=-1) if keep else x
        return velocity, kept

    def _with_indicator(self, x: Tensor, null: Tensor) -> Tensor:
        """One more token in front, where the stage has an indicator: its number in every channel."""
        if self.indicator_null is None or self.indicator_conditional is None:
            return x
        value = torch.where(null, self.indicator_null, self.indicator_conditional).to(x.dtype)
        return torch.cat([value[:, None, None].expand(-1, 1, x.shape[-1]), x], dim=1)


class DiMR(VelocityNet):
    """The network that `DiMRSettings` describes."""

    def __init__(self, settings: DiMRSettings, latent: LatentSpec) -> None:
        super().__init__()
        channels, height, width = latent.shape
        self.patch = settings.patch
        self.stage_weights = settings.stage_weights
        self.stages = nn.ModuleList()
        coarse = (0, 1)
        for index, own in enumerate(settings.stages):
            cell = settings.patch * own.patch
            stage = Stage(own, channels * settings.patch**2, (height // cell, width // cell), coarse)
            self.stages.append(stage)
            if index + 1 < len(settings.stages):
                coarse = (stage.features, own.patch // settings.stages[index + 1].patch)

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
        return self.velocities(z, t, null, context, context_mask, r)[-1]

    def velocities(
        self,
        z: Tensor,
        t: Tensor,
        null: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        r: Tensor | None = None,
    ) -> list[Tensor]:
        """See `VelocityNet.velocities`; stage k gives (B, C, H / patch_k, W / patch_k)."""
        folded = F.pixel_unshuffle(z, self.patch)
        coarse: Tensor | None = None
        found = []
        for index, stage in enumerate(self.stages):
            velocity, coarse = stage(folded, t, null, coarse, index + 1 < len(self.stages))
            found.append(F.pixel_shuffle(velocity, self.patch).to(z.dtype))
        return found

    def compiled_parts(self) -> Sequence[nn.Module]:
        """The stages: `velocities` does not pass through `forward`."""
        return [*self.stages]
