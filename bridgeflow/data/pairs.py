"""From a row to a pair of items: which columns a task needs, what makes a row unusable, and held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from bridgeflow.data.files import check_words
from bridgeflow.data.rows import NamedRow, Rows, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Latent, Modality
from bridgeflow.runtime.randomness import seed_of
from bridgeflow.task import Task

T = TypeVar("T")
Pairing = Callable[[Mapping[str, Any], np.random.Generator], tuple[Item, Item]]
"""The two items of a row, as a task's `pair` and `held_out_pair` make them."""

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
    pair: Pairing | None = None,
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
            raise BridgeflowError(f"its {name!r} holds numbers that are not finite (NaN or infinite): fix it.")


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


def modalities_of(task: Task, column: str) -> list[Modality]:
    """The modalities of a task whose items a column holds: that which the task names for it, or those that it is called
    after."""
    parts = task.parts()
    if column in task.holds:
        return [parts[task.holds[column]]]
    return [modality for modality in parts.values() if modality.column == column]


def _endings(task: Task, column: str) -> set[str]:
    """Endings of the files that a task may open for a column; none where its items are words."""
    own = modalities_of(task, column) or list(task.parts().values())
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


def collated(task: Task, pairs: Sequence[Pair], failures: Sequence[str] = ()) -> Batch:
    """A batch of pairs, by the two modalities' own `collate`. Raises BridgeflowError where they cannot be used."""
    source = task.from_modality.collate([pair.source for pair in pairs])
    target = task.to_modality.collate([pair.target for pair in pairs])
    check_batch(source)
    check_batch(target)
    return Batch(source, target, list(failures))


def unreadable(failures: Sequence[str]) -> BridgeflowError:
    """The error where so many rows one after another cannot be read that reading gives up."""
    return BridgeflowError(
        f"{len(failures)} rows one after another cannot be read, the last because: {failures[-1].rstrip('.')}; see "
        "them all with: bridgeflow data check."
    )


@dataclass
class Examples:
    """Items of rows as a task pairs them."""

    sources: list[Item] = field(default_factory=list)
    truths: list[Item] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def read_pairs(
    rows: Rows | Stream, task: Task, renames: Mapping[str, str], count: int, pair: Pairing | None = None
) -> Iterator[tuple[Item, Item, dict[str, Any]] | BridgeflowError]:
    """(source item, target item, row) of the first `count` rows that can be read one by one, by the task's `pair` or
    another one; the error of each between that cannot."""

    def read(index: int, row: dict[str, Any] | BridgeflowError) -> tuple[Item, Item, dict[str, Any]] | BridgeflowError:
        try:
            if isinstance(row, BridgeflowError):
                raise row
            return (*read_pair(task, row, renames, index, seed_of("evaluation", index), pair), named(row, renames))
        except BridgeflowError as error:
            return error

    return usable((read(index, row) for index, row in in_order(rows)), count)


def read_examples(
    rows: Rows | Stream, task: Task, renames: Mapping[str, str], count: int, whole: bool = False
) -> Examples:
    """The first `count` rows that can be read, as the task's `held_out_pair` reads them; the others are named and
    skipped."""
    examples = Examples()
    for pair in read_pairs(rows, task, renames, count, partial(task.held_out_pair, whole=whole)):
        if isinstance(pair, BridgeflowError):
            examples.unreadable.append(str(pair))
            continue
        examples.sources.append(pair[0])
        examples.truths.append(pair[1])
        examples.rows.append(pair[2])
    return examples
