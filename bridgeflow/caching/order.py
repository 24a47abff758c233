"""The order in which cached rows are trained on: shuffled, and read nearly in sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bridgeflow.runtime.randomness import generator


class WindowedOrder:
    """A permutation of the rows of shards that needs little memory: the shards are shuffled, and the rows of each
    `window` shards after one another are shuffled among themselves. It depends on (seed, epoch) alone."""

    def __init__(self, counts: Sequence[int], window: int, seed: int, epoch: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.firsts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self.place = (seed, "epoch", epoch)
        self.shards = torch.randperm(len(counts), generator=generator(*self.place)).numpy()
        self.window = window
        self.ends = np.cumsum([self.counts[part].sum() for part in self._windows()])
        self._number = -1
        self._order = np.empty(0, dtype=np.int64)

    def _windows(self) -> list[np.ndarray]:
        return [self.shards[start : start + self.window] for start in range(0, len(self.shards), self.window)]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, place: int) -> int:
        """The row at a place of the epoch."""
        number = int(np.searchsorted(self.ends, place, side="right"))
        if number != self._number:
            part = self.shards[number * self.window : (number + 1) * self.window]
            rows = np.concatenate([self.firsts[own] + np.arange(self.counts[own]) for own in part])
            order = torch.randperm(len(rows), generator=generator(*self.place, "window", number)).numpy()
            self._number, self._order = number, rows[order]
        return int(self._order[place - (self.ends[number - 1] if number else 0)])
