"""The contract of a source encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.runtime.randomness import Randomness
from bridgeflow.settings import Settings


@dataclass
class Encoded:
    """What a source encoder makes of a batch.

    z0: (B, *target shape), where the flow starts. mu, logvar: the same shape; mu is given by learned encoders,
    logvar by the variational one alone. context: (B, M, D) tokens for cross-attention, with its bool mask
    (B, M), from encoders that have the network attend to the source. added: (B, *target shape), what of conditions is
    added to the network's state. from_noise: whether z0 holds nothing of the source.
    """

    z0: Tensor
    mu: Tensor | None = None
    logvar: Tensor | None = None
    context: Tensor | None = None
    context_mask: Tensor | None = None
    added: Tensor | None = None
    from_noise: bool = False


class SourceEncoder(nn.Module, ABC):
    """Brings a source latent into the target's shape."""

    takes_any_size: bool = False
    """Whether it also takes latents of other sizes than it was built for."""
    learned: bool = False
    """True where the flow's loss reaches the encoder, so that its scale can collapse."""

    @property
    def context(self) -> LatentSpec | None:
        """Shape of the context that the velocity network has to attend to."""
        return None

    @abstractmethod
    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """z0 for a batch. `sample=False` takes the mean of whatever is drawn, but for the noise source."""


class SourceEncoderSettings(Settings, ABC):
    """Base class of a source encoder's settings, found under the entry point group `bridgeflow.source_encoders`."""

    name: str

    @abstractmethod
    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """The encoder. Raises UsageError for latents that it does not take."""
