"""Reads every row as training would, and names what is missing or cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bridgeflow.data.pairs import check_pair, describe_row, in_order, read_pair
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import bounded, printable
from bridgeflow.task import Task

MOST_NAMED = 10_000
"""Rows that are named one by one; further ones are counted."""


@dataclass
class Checked:
    """rows: how many were read; unusable: how many of them cannot be used; broken: a sentence for each of these, up to
    `MOST_NAMED`."""

    rows: int = 0
    unusable: int = 0
    broken: list[str] = field(default_factory=list)


def check_rows(
    rows: Rows | Stream,
    task: Task,
    renames: dict[str, str],
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    held_out: bool = False,
) -> Checked:
    """Pairs every row (or the first `limit`) and collates it where its codecs can, one by one.

    held_out: whether the rows are scored on rather than trained on: what training cannot use, scoring often can.
    """
    pair = task.held_out_pair if held_out else task.pair
    checked = Checked()
    total = len(rows) if isinstance(rows, Rows) else (limit or 0)
    for index, row in in_order(rows, limit):
        try:
            if isinstance(row, BridgeflowError):
                raise row
            check_pair(task, read_pair(task, row, renames, index, index, pair), describe_row(row, index))
        except BridgeflowError as error:
            checked.unusable += 1
            if len(checked.broken) < MOST_NAMED:
                checked.broken.append(bounded(printable(str(error))))
        checked.rows += 1
        if on_progress is not None:
            on_progress(checked.rows, max(total, checked.rows))
    return checked
