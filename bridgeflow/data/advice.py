"""What a person should know of their data before training: the modalities look at the first rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from bridgeflow.conditioned import item_at
from bridgeflow.data.pairs import in_order, read_pair
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item, Modality
from bridgeflow.task import Task

MOST_ROWS = 100
"""Rows that are looked at."""
MOST_SECONDS = 5.0
"""After so long no further row is read: it is advice, and training waits for it."""


def advice(rows: Rows | Stream, task: Task, renames: Mapping[str, str], limit: int | None = None) -> list[str]:
    """Sentences of a task's modalities on the first rows (`limit` at most) that can be read, see `Modality.advise`."""
    most = min(MOST_ROWS, limit or MOST_ROWS)
    found: list[str] = []
    for place, modality in task.parts().items():
        # Rows are read for those only that have something to say.
        if type(modality).advise is not Modality.advise:
            found += modality.advise(_items(rows, task, renames, place, most), place)
    is_whole = isinstance(rows, Rows) and len(rows) <= most
    return found if is_whole else [f"of the first {most} rows, {sentence}" for sentence in found]


def _items(rows: Rows | Stream, task: Task, renames: Mapping[str, str], place: str, most: int) -> Iterator[Item]:
    """The items for the modality at a place, of the first rows that can be read in time."""
    until = time.monotonic() + MOST_SECONDS
    for index, row in in_order(rows, most):
        if isinstance(row, BridgeflowError):
            continue
        try:
            yield item_at(read_pair(task, row, renames, index, index), place)
        except BridgeflowError:
            continue
        if time.monotonic() > until:
            return
