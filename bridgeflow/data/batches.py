"""From rows to batches: the order of training, reading ahead, and rows that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bridgeflow.data.files import check_words
from bridgeflow.data.rows import NOTHING_LEFT, EncodedRows, Order, OrderedRows, Rows, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Latent
from bridgeflow.randomness import generator, seed_of
from bridgeflow.task import Task

MOST_TRIES = 64
"""Rows tried in a row's stead before reading gives up."""

Pair = tuple[Item, Item, list[str]]
"""The two items of a row, and a sentence for each row that was passed over on the way to it."""


@dataclass
class Batch:
    """Both sides, as tensors that `collate` made or as latents that were encoded before, and a sentence for each row
    that could not be read."""

    source: dict[str, Tensor] | Latent
    target: dict[str, Tensor] | Latent
    failures: list[str] = field(default_factory=list)


def check_columns(
    task: type[Task], task_name: str, columns: Sequence[str], renames: Mapping[str, str], data: str
) -> None:
    """Raises UsageError when the data lack a column that the task needs."""
    for column, meaning in task.columns.items():
        wanted = renames.get(column, column)
        if wanted not in columns:
            raise UsageError(
                f"task {task_name!r} needs a column {wanted!r} ({meaning}), but {data} has "
                f"{', '.join(columns) or 'none'}: add it, or name the one that holds it with --columns {column}=NAME."
            )
    for column in renames:
        if column not in task.columns:
            raise UsageError(
                f"--columns names {column!r}, which task {task_name!r} does not need: it needs "
                f"{', '.join(task.columns)}."
            )


def named(row: Mapping[str, Any], renames: Mapping[str, str]) -> dict[str, Any]:
    """The row with the task's names for its columns."""
    return {**row, **{column: row.get(own) for column, own in renames.items()}}


def describe_row(row: Mapping[str, Any], index: int) -> str:
    """What a person would call the row: its file, else its number."""
    for value in row.values():
        if hasattr(value, "as_posix"):
            return str(value)
        if isinstance(value, dict) and value.get("path"):
            return str(value["path"])
    return f"row {index}"


def read_pair(
    task: Task,
    row: Mapping[str, Any],
    renames: Mapping[str, str],
    index: int,
    seed: int,
    pair: Callable[[Mapping[str, Any], np.random.Generator], tuple[Item, Item]] | None = None,
) -> tuple[Item, Item]:
    """The two items of a row, by the task's `pair` or another one. Raises BridgeflowError naming the row, whatever went
    wrong in reading it."""
    complete = named(row, renames)
    for column in task.columns:
        if complete.get(column) is None:
            raise BridgeflowError(f"{describe_row(row, index)}: the column {renames.get(column, column)!r} is empty.")
    try:
        for column in task.columns:
            check_words(complete[column], _endings(task, column), renames.get(column, column))
        return (pair or task.pair)(complete, np.random.default_rng(seed))
    except BridgeflowError as error:
        sentence = str(error)
        place = describe_row(row, index)
        raise BridgeflowError(sentence if place in sentence else f"{place}: {sentence}") from error


def _endings(task: Task, column: str) -> set[str]:
    """Endings of the files that a task may open for a column; none where its items are words."""
    both = (task.from_modality, task.to_modality)
    own = [modality for modality in both if modality.column == column] or both
    return {ending for modality in own if not modality.textual for ending in modality.reads}


def in_order(rows: Rows | Stream, limit: int | None = None) -> Iterator[tuple[int, dict[str, Any] | BridgeflowError]]:
    """(number, row) from the first on, at most `limit`; in place of a row that cannot be read, the error."""
    if isinstance(rows, Stream):
        yield from enumerate(islice(rows.rows_from(0, 0), limit))
        return
    for index in range(len(rows) if limit is None else min(limit, len(rows))):
        try:
            yield index, rows[index]
        except BridgeflowError as error:
            yield index, error


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


class Pairs(Dataset[Pair | BridgeflowError]):
    """The endless sequence of pairs of a data set of known length."""

    def __init__(self, rows: Rows, task: Task, renames: Mapping[str, str], seed: int) -> None:
        self.rows = rows
        self.task = task
        self.renames = renames
        self.seed = seed
        self.order = EpochOrder(len(rows), seed, rows)

    def __getitem__(self, position: int) -> Pair | BridgeflowError:
        """The pair at a position, or the error where no row near it can be read."""
        index = self.order[position]
        failures: list[str] = []
        for _ in range(min(MOST_TRIES, len(self.rows))):
            try:
                row = self.rows[index]
                pair = read_pair(self.task, row, self.renames, index, seed_of(self.seed, "pair", position))
                return (*pair, failures)
            except BridgeflowError as error:
                failures.append(str(error))
                index = (index + 1) % len(self.rows)
        return unreadable(failures)


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


def collated(task: Task, pairs: Sequence[Pair]) -> Batch:
    """A batch of pairs, by the two modalities' own `collate`."""
    return Batch(
        task.from_modality.collate([pair[0] for pair in pairs]),
        task.to_modality.collate([pair[1] for pair in pairs]),
        [failure for pair in pairs for failure in pair[2]],
    )


@dataclass(frozen=True)
class _Collate:
    """`collated` for a process that reads ahead: an error is handed on, for raised there it would come back with
    that process's traceback as its message."""

    task: Task

    def __call__(self, pairs: Sequence[Pair | BridgeflowError]) -> Batch | BridgeflowError:
        whole: list[Pair] = []
        for pair in pairs:
            if isinstance(pair, BridgeflowError):
                return pair
            whole.append(pair)
        try:
            return collated(self.task, whole)
        except BridgeflowError as error:
            return error


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
        encoded = isinstance(rows, EncodedRows)
        loader: DataLoader[Any] = DataLoader(
            Latents(rows, seed) if isinstance(rows, EncodedRows) else Pairs(rows, task, renames, seed),
            batch_sampler=_Positions(position, batch_size, rank, world),
            collate_fn=_as_it_is if encoded else _Collate(task),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        for batch in loader:
            if isinstance(batch, BridgeflowError):
                raise batch
            yield batch
    else:
        # It builds on this module, so it is imported once this one is there.
        from bridgeflow.data.streaming import streamed

        yield from streamed(rows, task, renames, batch_size, seed, position, workers, rank, world)


def unreadable(failures: Sequence[str]) -> BridgeflowError:
    """The error where so many rows one after another cannot be read that reading gives up."""
    return BridgeflowError(
        f"{len(failures)} rows one after another cannot be read, the last because: {failures[-1].rstrip('.')}; see "
        "them all with: bridgeflow data check."
    )
