"""The contract of a velocity network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.patches import TimeEmbedding
from bridgeflow.settings import Settings


class VelocityNet(nn.Module, ABC):
    """v(z_t, t, indicator): the velocity of the flow at a state, under the conditional or the null indicator."""

    @abstractmethod
    def forward(
        self,
        z: Tensor,
        t: Tensor,
        null: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        r: Tensor | None = None,
    ) -> Tensor:
        """z: (B, *shape). t: (B,) in [0, 1]. null: bool (B,), True for the null indicator.
        context: (B, M, D) tokens to attend to, with context_mask bool (B, M); only where the network was
        built with a context. r: (B,) in [0, 1], a second time, only where built with `second_time`.
        Returns the velocity, (B, *shape)."""

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether states (B, *shape) of another size than the network was built for are taken."""
        return False

    reading_weight: float = 0.0
    """Weight in the total loss of how well `read_source` reads; 0 for networks that do not."""

    def read_source(self, z: Tensor, t: Tensor) -> Tensor:
        """Where the flow of states z (B, *shape) at times t (B,) began, without its noise: an estimate of mu."""
        raise NotImplementedError

    def hidden_layers(self) -> Sequence[tuple[nn.Module, int]]:
        """Blocks in the order in which they are computed, each with the features of what it gives, for losses that look
        at what the network has half-way. None by default."""
        return []

    def hidden_map(self, hidden: Tensor) -> Tensor:
        """What a block of `hidden_layers` gives, where the state's tokens stand: (B, features, *grid)."""
        return hidden

    stage_weights: tuple[float, ...] = (1.0,)
    """Weight of the flow loss at each resolution that `velocities` gives."""

    def velocities(
        self,
        z: Tensor,
        t: Tensor,
        null: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        r: Tensor | None = None,
    ) -> list[Tensor]:
        """The velocity at every resolution that training looks at, from coarse to fine; the last is `forward`'s.

        A coarse one is (B, C, *sizes / ratio) and stands for `flow.losses.pooled` of the velocity."""
        return [self(z, t, null, context, context_mask, r)]

    def compiled_parts(self) -> Sequence[nn.Module]:
        """The modules, called as `part(...)` by `velocities`, that `training.compile` compiles, each by itself."""
        return [self]


class NetworkSettings(Settings, ABC):
    """Base of a network's settings, found under the entry point group `bridgeflow.networks`."""

    second_time: bool = False
    """Takes a second time r beside t; set by objectives that teach average velocities."""

    @abstractmethod
    def build(self, latent: LatentSpec, context: LatentSpec | None = None) -> VelocityNet:
        """The network for latents of that shape, with cross-attention where a context is given."""


class Conditioning(nn.Module):
    """Times and, where asked for, the indicator as one vector (B, width) that modulates every block."""

    def __init__(
        self, width: int, second_time: bool, indicator: bool, features: int = 128, scale: float = 1000.0
    ) -> None:
        super().__init__()
        self.time = TimeEmbedding(width, features, scale)
        self.second_time = TimeEmbedding(width, features, scale) if second_time else None
        if self.second_time is not None:
            # At first it adds nothing, so that a network that was trained without it can be gone on with.
            last = self.second_time.mlp[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.indicator = nn.Embedding(2, width) if indicator else None
        if self.indicator is not None:
            nn.init.normal_(self.indicator.weight, std=0.02)

    def forward(self, t: Tensor, null: Tensor, r: Tensor | None) -> Tensor:
        """t, r: (B,); null: bool (B,). Index 1 of the indicator is null."""
        vector = self.time(t)
        if r is not None:
            if self.second_time is None:
                raise UsageError("this network has no second time: set network.second_time=true.")
            vector = vector + self.second_time(r - t)
        if self.indicator is not None:
            vector = vector + self.indicator(null.long())
        return vector
