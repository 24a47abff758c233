"""Reads every row as training would, and names what is missing or cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from bridgeflow.data.batches import describe_row, in_order, read_pair
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
) -> Checked:
    """Pairs every row (or the first `limit`) and collates it where its codecs can, one by one."""
    checked = Checked()
    total = len(rows) if isinstance(rows, Rows) else (limit or 0)
    for index, row in in_order(rows, limit):
        try:
            if isinstance(row, BridgeflowError):
                raise row
            items = read_pair(task, row, renames, index, index)
            for modality, item in zip((task.from_modality, task.to_modality), items, strict=True):
                # A codec is fitted when training starts; until then it cannot collate.
                if not modality.needs_fit:
                    _check_finite(modality.collate([item]))
        except BridgeflowError as error:
            sentence = str(error)
            if isinstance(row, BridgeflowError):
                # A stream's errors name the file: its numbers are those of a shuffled order.
                place = "" if isinstance(rows, Stream) else f"row {index}"
            else:
                place = describe_row(row, index)
            checked.unusable += 1
            if len(checked.broken) < MOST_NAMED:
                named = sentence if place in sentence else f"{place}: {sentence}"
                checked.broken.append(bounded(printable(named)))
        checked.rows += 1
        if on_progress is not None:
            on_progress(checked.rows, max(total, checked.rows))
    return checked


def _check_finite(batch: dict[str, Tensor]) -> None:
    """Raises BridgeflowError where a collated item holds numbers that no loss survives."""
    for name, tensor in batch.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise BridgeflowError(f"its {name!r} holds numbers that are not finite (NaN or infinite): mend it.")
