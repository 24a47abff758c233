"""Towers: what the source's z0 is contrasted with, in the target's shape.

Source: CrossFlow (arXiv 2412.15213), section 3.2: the encoding loss contrasts z0 with an encoding of the target.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.narrowing import ConvTail, grid_of
from bridgeflow.settings import Settings


class TokenTowerSettings(Settings):
    """A transformer over the latent itself. What is none is as in the source encoder where that is one too."""

    name: Literal["tokens"] = "tokens"
    width: int | None = Field(default=None, ge=16)
    """Features of a token; none and nothing to follow: 192."""
    heads: int | None = Field(default=None, ge=1)
    """Attention heads; none and nothing to follow: 4."""
    depth: int | None = Field(default=None, ge=1)
    """Blocks; none: half the source encoder's, or 4."""
    patch: int | None = Field(default=None, ge=1)
    """Cells per axis of the grid it sees that make a token; none and nothing to follow: 2 for grids, 1 for
    sequences."""


class TimmTowerSettings(Settings):
    """An image network of timm over the pixels before the codec, as the published checkpoints have it."""

    name: Literal["timm"] = "timm"
    model: str = "vit_large_patch16_siglip_256"
    """Name of a model of timm; its weights start random."""
    size: int = Field(default=256, ge=16)
    """Height and width that the pixels are brought to."""
    head: Literal["mlp", "conv"] = "mlp"
    """From the network's features to the target's shape: two linear layers, or a few more and convolutions."""


TowerSettings = Annotated[TokenTowerSettings | TimmTowerSettings, Field(discriminator="name")]


class MLPHead(nn.Module):
    """Two linear layers with a GELU and then a norm between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs)
        self.linear_out = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        return self.linear_out(self.norm(F.gelu(self.linear_in(x))))


def _trunk(settings: TimmTowerSettings) -> tuple[nn.Module, int]:
    """The network without a classifier, made for pictures of that size, and the width of what it gives."""
    import timm

    def create(**options: int) -> nn.Module:
        return timm.create_model(settings.model, pretrained=False, num_classes=0, **options)

    options = {"img_size": settings.size}
    try:
        with torch.device("meta"):
            try:
                sketch = create(**options)
            except TypeError:
                # Convolutional networks take pictures of any size, and no option for it.
                options = {}
                sketch = create()
            shape = sketch.eval()(torch.empty(2, 3, settings.size, settings.size)).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"encoding.tower.size={settings.size} does not suit the model {settings.model!r} of timm ({cause}): choose "
            "another size or model."
        ) from error
    if len(shape) != 2:
        raise UsageError(
            f"encoding.tower.model={settings.model} of timm gives no vector a picture but {tuple(shape[1:])}: choose "
            "another model."
        )
    return create(**options), shape[1]


class TimmTower(nn.Module):
    """Pixels (B, 3, H, W) in [-1, 1] to (B, target size), flat."""

    def __init__(self, settings: TimmTowerSettings, target: LatentSpec) -> None:
        super().__init__()
        import timm

        if settings.model not in timm.list_models(settings.model):
            raise UsageError(f"encoding.tower.model: timm has no model {settings.model!r}; see timm.list_models().")
        self.size = settings.size
        self.trunk, features = _trunk(settings)
        self.head: nn.Module
        if settings.head == "mlp":
            self.head = MLPHead(features, target.size)
        else:
            self.head = ConvTail(features, target.shape[0], grid_of(target, "encoding.tower.head"))

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class; the pixels are resized where they are not of the network's size."""
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True)
        return self.head(self.trunk(pixels)).float()
