"""Which target belongs to which source, and which rows learn the unconditional velocity."""

from __future__ import annotations

import torch
from torch import Tensor


class PairedCoupling:
    """Pairs are kept as the data give them.

    Null rows are the exception: for classifier-free guidance their targets are rolled among themselves, so
    that under the null indicator the flow learns the targets whatever the source (CrossFlow, section 3.3).
    """

    def couple(self, z1: Tensor, null: Tensor) -> Tensor:
        """Targets (B, ...) for the flow loss; `null` is bool (B,). Rows that are not null keep theirs."""
        index = null.cpu().nonzero().flatten()
        if len(index) < 2:
            return z1
        source = torch.arange(len(z1))
        source[index] = index.roll(1)
        return z1[source]


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
