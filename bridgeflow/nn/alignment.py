"""Hidden tokens of a velocity network drawn towards the features of a frozen encoder of pictures.

Source: REPA (Yu et al., arXiv 2410.06940): a projection of what the network has after some block is held against the
features that an encoder finds in the clean picture, by their cosine. The network need not find out by itself what is in
a picture before it learns to draw it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import UsageError
from bridgeflow.flow.coupling import Rearrange
from bridgeflow.flow.objective import ObjectiveSettings
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.features import PictureFeatures
from bridgeflow.nn.velocity import VelocityNet
from bridgeflow.settings import Settings


class AlignmentSettings(Settings):
    """Alignment of the network's hidden tokens with the features of a frozen encoder, for targets that are pictures."""

    name: Literal["none", "repa"] = "none"
    """`repa`: by the cosine with projected tokens."""
    encoder: str = "efficientnet"
    """`efficientnet` (EfficientNet-Lite0, which comes along), a folder of transformers, or the name of a model of
    timm."""
    size: int = Field(default=128, ge=32)
    """Height and width that the pixels are brought to for the encoder."""
    layer: int = Field(default=2, ge=1)
    """The block after which tokens are looked at, from 1 on."""
    weight: float = Field(default=0.5, gt=0)
    """Weight of 1 - cosine in the total loss."""
    width: int = Field(default=256, ge=8)
    """Hidden features of the projection, three linear layers."""

    def build(self, network: VelocityNet, target: LatentSpec, objective: ObjectiveSettings) -> Alignment | None:
        """The loss for a network; None for none. Raises UsageError where the network shows no such block, or what is
        trained does not suit."""
        if self.name == "none":
            return None
        if target.layout != "grid" or len(target.shape) != 3:
            raise UsageError(
                f"alignment.name={self.name} holds places of a picture against one another, and the target latent "
                f"({target}) has none: set alignment.name=none."
            )
        if objective.second_time:
            # Its first forwards are without gradients, or inside of a derivative.
            raise UsageError(
                f"alignment.name={self.name} does not go with objective.name={objective.name}: set "
                "alignment.name=none, or objective.name=flow_matching."
            )
        layers = network.hidden_layers()
        if self.layer > len(layers):
            shows = f"shows {len(layers)} blocks" if layers else "shows no blocks"
            raise UsageError(
                f"alignment.layer is {self.layer}, but this network ({type(network).__name__}) {shows}: set a smaller "
                "one, or alignment.name=none."
            )
        return Alignment(self, network)


class Alignment(nn.Module):
    """The loss that `AlignmentSettings` describes. Inference leaves it out."""

    def __init__(self, settings: AlignmentSettings, network: VelocityNet) -> None:
        super().__init__()
        layer, channels = network.hidden_layers()[settings.layer - 1]
        # No submodules of this one: their weights belong to the network, or to nobody.
        self._parts = (layer, network.hidden_map)
        self._features: PictureFeatures | None = None
        self.settings = settings
        self.project = nn.Sequential(
            nn.Linear(channels, settings.width),
            nn.SiLU(),
            nn.Linear(settings.width, settings.width),
            nn.SiLU(),
            nn.Linear(settings.width, self.features.channels),
        )

    @property
    def layer(self) -> nn.Module:
        """The block that is looked at."""
        return self._parts[0]

    @property
    def features(self) -> PictureFeatures:
        """The encoder, read when it is first needed."""
        if self._features is None:
            # On its own device, also where the bridge is sketched without numbers.
            with torch.device("cpu"):
                self._features = PictureFeatures(self.settings.encoder, self.settings.size)
        return self._features

    def forward(self, hidden: Sequence[Tensor], pixels: Tensor | None, rearranged: Rearrange) -> Tensor:
        """1 - cosine, a mean over tokens and rows. hidden: what the block gave, at each call. pixels: (B, 3, H, W) in
        [-1, 1], of the targets of the batch; rearranged: brings them to the rows whose flows end there.

        Raises UsageError where there are no pixels, or the block was never asked with gradients.
        """
        if pixels is None:
            raise UsageError(
                "alignment.name=repa looks at pixels, and these targets come without: make the cache with it, or set "
                "alignment.name=none."
            )
        trained = next((own for own in hidden if own.requires_grad), None)
        if trained is None:
            raise UsageError(
                "alignment.name=repa: this objective never asks the network with gradients: set alignment.name=none."
            )
        grid = self._parts[1](trained)
        features = F.interpolate(self.features(rearranged(pixels)), grid.shape[2:], mode="area")
        projected = self.project(grid.flatten(2).transpose(1, 2).float())
        return 1 - F.cosine_similarity(projected, features.flatten(2).transpose(1, 2), dim=-1).mean()


@contextmanager
def watching(alignment: Alignment | None) -> Iterator[list[Tensor]]:
    """A list that takes what the block of an alignment gives while the network is asked; empty where there is none."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, given: Any, found: Tensor) -> None:
        seen.append(found)

    handle = None if alignment is None else alignment.layer.register_forward_hook(keep)
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()
