"""From rows to batches: the order of training, reading ahead, and rows that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bridgeflow.data.files import check_words
from bridgeflow.data.rows import NOTHING_LEFT, EncodedRows, NamedRow, Order, OrderedRows, Rows, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Latent
from bridgeflow.runtime.randomness import generator, seed_of
from bridgeflow.task import Task

T = TypeVar("T")

MOST_TRIES = 128
"""Rows, drawn from all of them, that cannot be used before training gives up: where one in five can be, that never
happens."""
MOST_DRAWS = 8
"""Draws of a row whose task draws at random before the row counts as unusable."""
MOST_IN_ORDER = 1024
"""Rows one after another that cannot be used before reading from the first row on gives up, at least."""


class Pair(NamedTuple):
    """The two items of a row, and what a person would call it."""

    source: Item
    target: Item
    name: str


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
    """What a person would call the row: its own name or its file, else its number."""
    if isinstance(row, NamedRow):
        return row.name
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
    """The two items of a row, by the task's `pair` or another one, which is called again where it drew at random what
    cannot be read. Raises BridgeflowError naming the row, whatever went wrong in reading it."""
    complete = named(row, renames)
    for column in task.columns:
        if complete.get(column) is None:
            raise BridgeflowError(f"{describe_row(row, index)}: the column {renames.get(column, column)!r} is empty.")
        try:
            check_words(complete[column], _endings(task, column), renames.get(column, column))
        except BridgeflowError as error:
            raise BridgeflowError(placed(str(error), describe_row(row, index))) from error
    rng = np.random.default_rng(seed)
    for draw in range(MOST_DRAWS):
        before = rng.bit_generator.state
        try:
            return (pair or task.pair)(complete, rng)
        except BridgeflowError as error:
            # Where nothing was drawn, another call ends in the same way.
            if draw == MOST_DRAWS - 1 or rng.bit_generator.state == before:
                raise BridgeflowError(placed(str(error), describe_row(row, index))) from error
    raise AssertionError("the last draw returns or raises")


def placed(sentence: str, name: str) -> str:
    """A sentence that names its row."""
    return sentence if name in sentence else f"{name}: {sentence}"


def check_batch(batch: Mapping[str, Tensor]) -> None:
    """Raises BridgeflowError where collated items hold numbers that no loss survives."""
    for name, tensor in batch.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise BridgeflowError(f"its {name!r} holds numbers that are not finite (NaN or infinite): mend it.")


def check_pair(task: Task, pair: tuple[Item, Item], name: str) -> None:
    """Raises BridgeflowError, naming the row, where items that were read cannot be brought into a batch.

    With `read_pair` it is what makes a row unusable, for checks and training alike.
    """
    try:
        for modality, item in zip((task.from_modality, task.to_modality), pair, strict=True):
            # A codec is fitted when training starts; until then it cannot collate.
            if not modality.needs_fit:
                check_batch(modality.collate([item]))
    except BridgeflowError as error:
        raise BridgeflowError(placed(str(error), name)) from error


def usable(found: Iterable[T | BridgeflowError], most: int) -> Iterator[T | BridgeflowError]:
    """What was found from the first row on and the errors between, until there are `most` that can be used, or so many
    one after another that cannot be that no more are to be expected."""
    left, failed = most, 0
    for one in found:
        yield one
        failed = failed + 1 if isinstance(one, BridgeflowError) else 0
        left -= not failed
        if left == 0 or failed >= max(most, MOST_IN_ORDER):
            return


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


def collated(task: Task, pairs: Sequence[Pair], failures: Sequence[str] = ()) -> Batch:
    """A batch of pairs, by the two modalities' own `collate`. Raises BridgeflowError where they cannot be used."""
    source = task.from_modality.collate([pair.source for pair in pairs])
    target = task.to_modality.collate([pair.target for pair in pairs])
    check_batch(source)
    check_batch(target)
    return Batch(source, target, list(failures))


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
        # It builds on this module, so it is imported once this one is there.
        from bridgeflow.data.streaming import streamed

        yield from streamed(rows, task, renames, batch_size, seed, position, workers, rank, world)


def unreadable(failures: Sequence[str]) -> BridgeflowError:
    """The error where so many rows one after another cannot be read that reading gives up."""
    return BridgeflowError(
        f"{len(failures)} rows one after another cannot be read, the last because: {failures[-1].rstrip('.')}; see "
        "them all with: bridgeflow data check."
    )
