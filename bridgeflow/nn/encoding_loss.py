"""Encoding losses: what keeps a learned source telling its inputs apart (CrossFlow, arXiv 2412.15213, section 3.2 and
table 3b)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.flow.losses import LogitScale, contrastive_loss, logit_multiplier, masked_mean
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.encoded import SourceEncoderSettings
from bridgeflow.nn.token_encoder import TokenEncoder, TokenEncoderSettings
from bridgeflow.nn.tower import TimmTower, TimmTowerSettings, TokenTowerSettings, TowerSettings
from bridgeflow.settings import Settings

Side = Literal["source", "target"]


class EncodingLoss(nn.Module, ABC):
    """A loss on z0, with whatever it learns for it. Inference leaves it out."""

    needs_target_pixels: bool = False
    """Whether it looks at the target before its codec (`Latent.observed`)."""

    @abstractmethod
    def forward(self, source: Latent, z0: Tensor, z1: Tensor, target: Latent) -> Tensor:
        """The loss of a batch, a scalar, before its weight. z0, z1: (B, *target shape); z1 is drawn from `target`."""


class EncodingLossSettings(Settings, ABC):
    """Base class of an encoding loss's settings, found under the entry point group `bridgeflow.encoding_losses`."""

    name: str
    weight: float = Field(default=1.0, ge=0)
    """Weight of the term in the total loss; the term is a mean over the batch (and over real features)."""

    @abstractmethod
    def build(self, source: LatentSpec, target: LatentSpec, encoder: SourceEncoderSettings) -> EncodingLoss | None:
        """The loss for a source encoder with those settings; None for none. Raises ValueError or UsageError where it
        does not suit."""


class NoEncodingLossSettings(EncodingLossSettings):
    """None: the flow's loss alone."""

    name: Literal["none"] = "none"

    def build(self, source: LatentSpec, target: LatentSpec, encoder: SourceEncoderSettings) -> None:
        """Nothing."""
        return


class Reconstruction(EncodingLoss):
    """The source's own features, read back from z0: a mean squared error over what is real."""

    def __init__(self, tower: TokenEncoder) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, source: Latent, z0: Tensor, z1: Tensor, target: Latent) -> Tensor:
        """See `EncodingLoss.forward`."""
        (features,) = self.tower(z0)
        return masked_mean((features - source.mean.float()).square(), source.mask).mean()


class Contrast(EncodingLoss):
    """InfoNCE between z0 and what a tower makes of the other side, with a learned temperature."""

    def __init__(
        self,
        tower: TokenEncoder | TimmTower,
        sees: Side,
        temperature: float,
        reading: LogitScale,
    ) -> None:
        super().__init__()
        self.tower, self.sees, self.reading = tower, sees, reading
        self.needs_target_pixels = isinstance(tower, TimmTower)
        # Not a scalar, which cannot be sharded; checkpoints may hold one.
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))
        self.register_load_state_dict_pre_hook(_scale_of_one_number)

    def forward(self, source: Latent, z0: Tensor, z1: Tensor, target: Latent) -> Tensor:
        """See `EncodingLoss.forward`."""
        return contrastive_loss(z0, self._seen(source, z1, target), logit_multiplier(self.logit_scale, self.reading))

    def _seen(self, source: Latent, z1: Tensor, target: Latent) -> Tensor:
        if self.needs_target_pixels:
            if target.observed is None:
                raise ValueError("encoding.tower.name=timm looks at pixels, and this target modality shows none.")
            pixels: Tensor = self.tower(target.observed)
            return pixels
        (seen,) = self.tower(source.mean, source.mask) if self.sees == "source" else self.tower(z1, target.mask)
        return seen


class Align(EncodingLoss):
    """1 - cosine of z0 and z1, a mean over rows: the start points where the target lies, whatever its length."""

    def forward(self, source: Latent, z0: Tensor, z1: Tensor, target: Latent) -> Tensor:
        """See `EncodingLoss.forward`; padding of the target counts as 0."""
        mask = target.mask
        while mask is not None and mask.ndim < z1.ndim:
            mask = mask.unsqueeze(-1)
        real = z1 if mask is None else z1 * mask
        return 1 - F.cosine_similarity(z0.float().flatten(1), real.float().flatten(1), dim=1).mean()


class AlignSettings(EncodingLossSettings):
    """The start towards the target by their cosine, without a contrast (after arXiv 2602.05951; hold the variance with
    kl.form=variance)."""

    name: Literal["align"] = "align"

    def build(self, source: LatentSpec, target: LatentSpec, encoder: SourceEncoderSettings) -> Align:
        """The loss."""
        return Align()


class ReconstructionSettings(EncodingLossSettings):
    """The source's own features from z0."""

    name: Literal["reconstruction"] = "reconstruction"
    tower: TokenTowerSettings = TokenTowerSettings()
    """What reads the source back."""

    def build(self, source: LatentSpec, target: LatentSpec, encoder: SourceEncoderSettings) -> Reconstruction:
        """The loss."""
        sizes, patches = tower_sizes(self.tower, encoder, source, target, "target")
        own = TokenEncoderSettings(patch=patches["target"], target_patch=patches["source"], **sizes)
        # It runs backwards here: from z0, in the target's shape, to the source's.
        return Reconstruction(TokenEncoder(target, source, own, key="encoding.tower"))


class ContrastSettings(EncodingLossSettings):
    """What both contrasts share."""

    temperature: float = Field(default=0.07, ge=0.01)
    """Starting temperature of the contrast; it is learned."""
    logit_scale: LogitScale = "exp"
    """How the learned scale s = ln(1 / temperature) multiplies the cosine: `exp` by exp(s), as the paper's
    temperature, never above 100; `raw` by s itself, as the published code has it."""


class IntraContrastSettings(ContrastSettings):
    """Contrast with the source's features."""

    name: Literal["intra"] = "intra"
    tower: TokenTowerSettings = TokenTowerSettings()
    """What encodes the source."""

    def build(self, source: LatentSpec, target: LatentSpec, encoder: SourceEncoderSettings) -> Contrast:
        """The loss."""
        sizes, patches = tower_sizes(self.tower, encoder, source, target, "source")
        own = TokenEncoderSettings(patch=patches["source"], target_patch=patches["target"], **sizes)
        return Contrast(
            TokenEncoder(source, target, own, key="encoding.tower"), "source", self.temperature, self.logit_scale
        )


class CrossContrastSettings(ContrastSettings):
    """Contrast with the target, the best in the paper: with its latent, or with its pixels before the codec."""

    name: Literal["cross"] = "cross"
    tower: TowerSettings = TokenTowerSettings()
    """What encodes the target."""

    def build(self, source: LatentSpec, target: LatentSpec, encoder: SourceEncoderSettings) -> Contrast:
        """The loss."""
        if isinstance(self.tower, TimmTowerSettings):
            return Contrast(TimmTower(self.tower, target), "target", self.temperature, self.logit_scale)
        sizes, patches = tower_sizes(self.tower, encoder, source, target, "target")
        own = TokenEncoderSettings(patch=patches["target"], target_patch=patches["target"], **sizes)
        return Contrast(
            TokenEncoder(target, target, own, key="encoding.tower"), "target", self.temperature, self.logit_scale
        )


def tower_sizes(
    tower: TokenTowerSettings,
    encoder: SourceEncoderSettings,
    source: LatentSpec,
    target: LatentSpec,
    sees: Side,
) -> tuple[dict[str, int], dict[str, int | None]]:
    """Width, heads and depth of a tower, and the patch of each side: what it leaves open is as in a source encoder that
    is such a transformer itself. sees: the side that the tower looks at."""
    like = encoder if isinstance(encoder, TokenEncoderSettings) else None
    sizes = {
        "width": tower.width or (like.width if like else 192),
        "heads": tower.heads or (like.heads if like else 4),
        "depth": tower.depth or (max(1, like.depth // 2) if like else 4),
    }
    patches: dict[str, int | None] = {"source": like.patch if like else 1, "target": like.target_patch if like else 1}
    for side, spec in (("source", source), ("target", target)):
        if like is None and spec.layout == "grid":
            patches[side] = 2
    patches[sees] = tower.patch or patches[sees]
    return sizes, patches


def _scale_of_one_number(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    key = f"{prefix}logit_scale"
    if key in state:
        state[key] = state[key].reshape(1)
