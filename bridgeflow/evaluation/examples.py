"""Held-out pairs, as a task reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from bridgeflow.data.batches import in_order, named, read_pair, usable
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item
from bridgeflow.runtime.randomness import seed_of
from bridgeflow.task import Task

Pair = Callable[[Mapping[str, Any], np.random.Generator], tuple[Item, Item]]


@dataclass
class Examples:
    """Items of rows as a task pairs them."""

    sources: list[Item] = field(default_factory=list)
    truths: list[Item] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def read_pairs(
    rows: Rows | Stream, task: Task, renames: Mapping[str, str], count: int, pair: Pair | None = None
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
    passed over."""
    examples = Examples()
    for pair in read_pairs(rows, task, renames, count, partial(task.held_out_pair, whole=whole)):
        if isinstance(pair, BridgeflowError):
            examples.unreadable.append(str(pair))
            continue
        examples.sources.append(pair[0])
        examples.truths.append(pair[1])
        examples.rows.append(pair[2])
    return examples
