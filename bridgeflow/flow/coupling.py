"""Which target belongs to which source, and which rows learn the unconditional velocity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bridgeflow.runtime import collective
from bridgeflow.settings import Settings

Rearrange = Callable[[Tensor], Tensor]
"""Puts the rows of a tensor (B, ...) of targets, or of their masks, where the coupling has them."""


class Coupling(ABC):
    """Which target each source of a batch flows to."""

    @abstractmethod
    def couple(self, z0: Tensor, z1: Tensor, null: Tensor) -> Rearrange:
        """How the targets z1 (B, ...) of the sources z0 (B, ...) are rearranged for the flow loss.

        null: bool, the rows that learn the unconditional velocity: of the whole batch, which with several processes is
        (world * B,) by rank, the same on all of them. In training, so gradients flow through z0: look at it detached.
        """


class CouplingSettings(Settings, ABC):
    """Base class of a coupling's settings, found under the entry point group `bridgeflow.couplings`."""

    name: str

    @abstractmethod
    def build(self) -> Coupling:
        """The coupling."""


class PairedCoupling(Coupling):
    """Pairs are kept as the data give them.

    Null rows are the exception: for classifier-free guidance their targets are rolled among themselves, so
    that under the null indicator the flow learns the targets whatever the source (CrossFlow, section 3.3).
    """

    def couple(self, z0: Tensor, z1: Tensor, null: Tensor) -> Rearrange:
        """Rows that are not null keep their targets; null rows take one another's, across processes too."""
        return lambda targets: self.rolled(targets, null)

    def rolled(self, z1: Tensor, null: Tensor) -> Tensor:
        """Targets (B, ...) of which those of the null rows are rolled among themselves."""
        index = null.cpu().nonzero().flatten()
        if len(index) < 2:
            return z1
        taken = index.roll(1)
        batch = len(z1)
        if len(null) == batch:
            source = torch.arange(batch)
            source[index] = taken
            return z1[source]
        return self._across_processes(z1, index, taken)

    def _across_processes(self, z1: Tensor, index: Tensor, taken: Tensor) -> Tensor:
        """`rolled` where the null rows `index` take the targets of rows `taken`, both numbers of the whole batch.

        Only null rows are sent, as many by every process as the one with the most of them has. All hold the same `null`
        and so compute the same rearrangement.
        """
        batch, first = len(z1), collective.rank() * len(z1)
        counts = torch.bincount(index // batch, minlength=collective.world())
        most = int(counts.max())
        own = index[index // batch == collective.rank()] - first
        sent = z1.new_zeros(most, *z1.shape[1:])
        sent[: len(own)] = z1[own]
        everyone = collective.gathered(sent)
        # Those of rank r lie at r * most, r * most + 1, ...; `order` numbers a row among its own rank's.
        order = torch.arange(len(index)) - torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])[index // batch]
        place = dict(zip(index.tolist(), ((index // batch) * most + order).tolist(), strict=True))
        wanted = [place[row] for row in taken[index // batch == collective.rank()].tolist()]
        coupled = z1.clone()
        coupled[own] = everyone[wanted]
        return coupled


class PairedCouplingSettings(CouplingSettings):
    """Pairs as the data give them."""

    name: Literal["paired"] = "paired"

    def build(self) -> PairedCoupling:
        """The coupling."""
        return PairedCoupling()


def draw_null_rows(batch: int, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Draws the null rows of a batch: bool (batch,) on the CPU, never exactly one of them.

    One null row has no other target to take, so the number of them is 0 or from 2 to `batch`, drawn such
    that its mean is rate * batch at every batch size of at least 2. A batch of one has no null row.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate of null rows lies between 0 and 1, not at {rate}")
    null = torch.zeros(batch, dtype=torch.bool)
    expected = rate * batch
    if batch < 2 or expected == 0:
        return null
    u = float(torch.rand((), generator=generator))
    count = (2 if u < expected / 2 else 0) if expected < 2 else int(expected) + (u < expected - int(expected))
    null[torch.randperm(batch, generator=generator)[:count]] = True
    return null
