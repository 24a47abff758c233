"""From rows to batches: the order of training, and rows that stand in for those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count, islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bridgeflow.data.pairs import MOST_TRIES, Batch, Pair, check_pair, collated, describe_row, read_pair, unreadable
from bridgeflow.data.rows import NOTHING_LEFT, EncodedRows, Order, OrderedRows, Rows, Stream
from bridgeflow.data.streaming import streamed
from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.randomness import generator, seed_of
from bridgeflow.task import Task

T = TypeVar("T")


class EpochOrder:
    """The order of rows: each epoch is a permutation of its own, derived from (seed, epoch), by the rows themselves
    where they have an order."""

    def __init__(self, count: int, seed: int, rows: Rows | None = None) -> None:
        self.count = count
        self.seed = seed
        self._own = rows.order if isinstance(rows, OrderedRows) else None
        self._epoch = -1
        self._order: Tensor | Order = torch.empty(0, dtype=torch.long)

    def __getitem__(self, position: int) -> int:
        """The row that stands at a position of the endless sequence."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            self._epoch = epoch
            if self._own is not None:
                self._order = self._own(self.seed, epoch)
            else:
                self._order = torch.randperm(self.count, generator=generator(self.seed, "epoch", epoch))
        return int(self._order[place])


class Pairs(Dataset[Batch]):
    """The endless sequence of pairs of a data set of known length, a batch at a time."""

    def __init__(self, rows: Rows, task: Task, renames: Mapping[str, str], seed: int) -> None:
        self.rows = rows
        self.task = task
        self.renames = renames
        self.seed = seed
        self.order = EpochOrder(len(rows), seed, rows)

    def __getitems__(self, positions: list[int]) -> Batch | BridgeflowError:
        """The batch at these positions, or the error where the rows drawn for one of them cannot be used."""
        failures: list[list[str]] = [[] for _ in positions]
        tries = [self._tries(position, own) for position, own in zip(positions, failures, strict=True)]
        try:
            pairs = [next(own) for own in tries]
            try:
                return collated(self.task, pairs, [*chain.from_iterable(failures)])
            except BridgeflowError:
                # One of the items cannot be brought into a batch: each is tried alone to find it.
                pairs = [
                    next(pair for pair in chain([first], rest) if self._fits(pair, own))
                    for first, rest, own in zip(pairs, tries, failures, strict=True)
                ]
                return collated(self.task, pairs, [*chain.from_iterable(failures)])
        except BridgeflowError as error:
            return error

    def _tries(self, position: int, failures: list[str]) -> Iterator[Pair]:
        """The pair of the row at a position, then those of rows that stand in for it; `failures` takes a sentence for
        each that cannot be read. Raises BridgeflowError after the last."""
        for attempt, index in enumerate(self._candidates(position)):
            seed = seed_of(self.seed, "pair", position, *([attempt] if attempt else []))
            try:
                row = self.rows[index]
                pair = Pair(*read_pair(self.task, row, self.renames, index, seed), describe_row(row, index))
            except BridgeflowError as error:
                failures.append(str(error))
                continue
            yield pair
        raise unreadable(failures)

    def _candidates(self, position: int) -> Iterator[int]:
        """The row at a position, then others drawn from all rows, so that a run of bad ones is soon left. They follow
        from the position alone, whatever the number of processes."""
        own = self.order[position]
        yield own
        rng = np.random.default_rng(seed_of(self.seed, "stand-in", position))
        drawn = rng.choice(len(self.rows), min(MOST_TRIES, len(self.rows)), replace=False)
        yield from islice((index for index in drawn.tolist() if index != own), MOST_TRIES - 1)

    def _fits(self, pair: Pair, failures: list[str]) -> bool:
        try:
            check_pair(self.task, pair[:2], pair.name)
        except BridgeflowError as error:
            failures.append(str(error))
            return False
        return True


class Latents(Dataset[Batch]):
    """The endless sequence of latents that were encoded before, a batch at a time."""

    def __init__(self, rows: EncodedRows, seed: int) -> None:
        self.rows = rows
        self.order = EpochOrder(len(rows), seed, rows)

    def __getitems__(self, positions: list[int]) -> Batch | BridgeflowError:
        """The batch at these positions, or the error where a file cannot be read."""
        epochs = [position // self.order.count for position in positions]
        try:
            return Batch(*self.rows.gather([self.order[position] for position in positions], epochs))
        except BridgeflowError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


class _Positions:
    """The positions of each batch of this process, without end; the processes' batches of a step lie side by side."""

    def __init__(self, position: int, batch_size: int, rank: int, world: int) -> None:
        self.first = position + rank * batch_size
        self.batch_size, self.stride = batch_size, world * batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in count(self.first, self.stride):
            yield list(range(start, start + self.batch_size))


def batches(
    rows: Rows | Stream,
    task: Task,
    renames: Mapping[str, str],
    batch_size: int,
    seed: int,
    position: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Batches without end, from a position in the endless sequence of pairs on: the pairs that were seen before.

    Of `world` processes each takes a batch of a step, so that the position after n steps is n * world * batch_size,
    whatever the number of processes was.
    """
    if isinstance(rows, Rows):
        if len(rows) == 0:
            raise BridgeflowError(f"{rows.description}: {NOTHING_LEFT}")
        loader: DataLoader[Any] = DataLoader(
            Latents(rows, seed) if isinstance(rows, EncodedRows) else Pairs(rows, task, renames, seed),
            batch_sampler=_Positions(position, batch_size, rank, world),
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        for batch in loader:
            if isinstance(batch, BridgeflowError):
                raise batch
            yield batch
    else:
        yield from streamed(rows, task, renames, batch_size, seed, position, workers, rank, world)
