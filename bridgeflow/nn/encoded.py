"""The contract of a source encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.runtime.randomness import Randomness
from bridgeflow.settings import Settings


@dataclass
class Encoded:
    """What a source encoder makes of a batch.

    z0: (B, *target shape), where the flow starts. mu, logvar: the same shape; mu is given by learned encoders,
    logvar by the variational one alone. context: (B, M, D) tokens for cross-attention, with its bool mask
    (B, M), from encoders that have the network attend to the source.

    Of a task's conditions: conditions, (B, K, D) tokens to attend to, with their bool mask (B, K); added,
    (B, *target shape), what is added to the network's state.
    """

    z0: Tensor
    mu: Tensor | None = None
    logvar: Tensor | None = None
    context: Tensor | None = None
    context_mask: Tensor | None = None
    conditions: Tensor | None = None
    conditions_mask: Tensor | None = None
    added: Tensor | None = None

    @property
    def attended(self) -> tuple[Tensor, Tensor | None] | None:
        """All tokens to attend to, (B, M + K, D), and which are real, where not all are; None where there are none."""
        return joined([(self.context, self.context_mask), (self.conditions, self.conditions_mask)])


def joined(parts: Sequence[tuple[Tensor | None, Tensor | None]]) -> tuple[Tensor, Tensor | None] | None:
    """Tokens one behind the other, (B, N, D) each or None, with their masks: None where all are real."""
    held = [(tokens, mask) for tokens, mask in parts if tokens is not None]
    if len(held) < 2:
        # At every step of the flow: tokens that stand alone are not copied.
        return held[0] if held else None
    tokens = torch.cat([own for own, _ in held], dim=1)
    if all(mask is None for _, mask in held):
        return tokens, None
    masks = [own.new_ones(own.shape[:2], dtype=torch.bool) if mask is None else mask for own, mask in held]
    return tokens, torch.cat(masks, dim=1)


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

    def latent_of(self, z0: Tensor) -> Tensor | None:
        """The source latent (B, *shape) that a start (B, *target shape) is, for encoders that leave it as it is."""
        return None

    def codes_of(self, mu: Tensor) -> Tensor | None:
        """A start (B, *target shape) without its noise as codes (B, L, n), one of each source token, for encoders that
        give each a code of its own; nothing for others."""
        return None

    def code(self, features: Tensor) -> Tensor:
        """The codes (V, n) of tokens with these features (V, D), as `codes_of` has them."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """z0 for a batch. `sample=False` takes the mean of whatever is drawn, but for the noise source."""


class SourceEncoderSettings(Settings, ABC):
    """Base class of a source encoder's settings, found under the entry point group `bridgeflow.source_encoders`."""

    name: str

    @abstractmethod
    def build(self, source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        """The encoder. Raises UsageError for latents that it does not take."""
