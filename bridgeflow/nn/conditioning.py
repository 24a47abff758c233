"""What the network is given beside the state of the flow, for a task with more than one source."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.encoded import Encoded, SourceEncoder, joined
from bridgeflow.nn.patches import Patches, grid_positions
from bridgeflow.runtime.randomness import Randomness
from bridgeflow.settings import Settings


class ConditioningSettings(Settings):
    """How the conditions of a task with several sources reach the network; nothing for any other task."""

    width: int = Field(default=128, ge=8)
    """Features of a token that the network attends to."""
    patch: int | None = Field(default=None, ge=1)
    """Cells per axis of a condition's grid that make a token; None: as many as leave at most 256 of them."""
    added: tuple[str, ...] = ()
    """Conditions that are added to the state, place by place, instead of being attended to: grids of the target's
    height and width, such as a depth map for a picture."""


class Attended(nn.Module):
    """Tokens (B, N, width) of a condition, each with its place and with what sets this condition apart from others."""

    def __init__(self, spec: LatentSpec, settings: ConditioningSettings) -> None:
        super().__init__()
        self.patches = Patches(spec, settings.patch if spec.layout == "grid" else 1, "conditioning.patch")
        self.linear = nn.Linear(self.patches.width, settings.width)
        self.norm = nn.LayerNorm(settings.width)
        self.kind = nn.Parameter(torch.zeros(settings.width))
        self.positions: Tensor
        self.register_buffer("positions", grid_positions(self.patches.grid, settings.width), persistent=False)

    def forward(self, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, *shape) to (B, N, width), and which of the tokens are real, bool (B, N)."""
        tokens = self.norm(self.linear(self.patches.split(z))) + self.positions + self.kind
        return tokens, self.patches.mask(mask)


class ConditionedEncoder(SourceEncoder):
    """A source encoder with conditions beside it: tokens of those that are attended to; the sum of the others, which is
    added to the network's state and begins at zero (as in ControlNet, arXiv 2302.05543)."""

    def __init__(
        self,
        inner: SourceEncoder,
        conditions: Mapping[str, LatentSpec],
        target: LatentSpec,
        settings: ConditioningSettings,
    ) -> None:
        """Raises UsageError where a condition cannot be given in the way that the settings say."""
        super().__init__()
        self.inner = inner
        self.learned = inner.learned
        # What is added has the size of training.
        self.takes_any_size = inner.takes_any_size and not settings.added
        self.attended = nn.ModuleDict(
            {name: Attended(spec, settings) for name, spec in conditions.items() if name not in settings.added}
        )
        self.added = nn.ModuleDict({name: _projection(name, conditions[name], target) for name in settings.added})
        own = inner.context
        # All tokens have one width.
        self.project_context: nn.Module | None = None
        if own is not None and self.attended:
            self.project_context = nn.Linear(own.shape[1], settings.width)
        counts = [own.shape[0]] if own is not None else []
        counts += [one.patches.count for one in self.attended.values() if isinstance(one, Attended)]
        self._context = LatentSpec((sum(counts), settings.width), "sequence") if self.attended else own

    @property
    def context(self) -> LatentSpec | None:
        """The tokens of the source encoder, if any, and those of the conditions."""
        return self._context

    def forward(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """z0 as the inner encoder gives it, with the conditions."""
        encoded = self.inner(source, generator, sample)
        drawn = {name: own.sample(generator) if sample else own.mean for name, own in source.conditions.items()}
        if self.project_context is not None:
            encoded.context = self.project_context(encoded.context)
        parts = [module(drawn[name], source.conditions[name].mask) for name, module in self.attended.items()]
        encoded.conditions, encoded.conditions_mask = joined(parts) or (None, None)
        for name, module in self.added.items():
            part = module(drawn[name].movedim(1, -1)).movedim(-1, 1)
            encoded.added = part if encoded.added is None else encoded.added + part
        return encoded


def _projection(name: str, condition: LatentSpec, target: LatentSpec) -> nn.Linear:
    """Channels of a condition to those of the target, at first to zero."""
    if condition.layout != "grid" or target.layout != "grid" or condition.shape[1:] != target.shape[1:]:
        raise UsageError(
            f"conditioning.added names {name!r}, whose latent is {condition}, but what is added has to be a grid of "
            f"the target's size ({target}): leave it out, so that the network attends to it."
        )
    layer = nn.Linear(condition.shape[0], target.shape[0])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
