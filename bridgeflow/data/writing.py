"""Rows written as files, to look at, to run on, or to train on as `folder:DIR`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridgeflow.data.pairs import describe_row, in_order, modalities_of, named, placed
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Modality
from bridgeflow.runtime import durable
from bridgeflow.sentences import bounded, printable
from bridgeflow.task import Task

METADATA = "metadata.jsonl"


@dataclass
class Written:
    """rows: how many were written; files: those of the folder, the list of rows last; broken: a sentence for each row
    that was skipped."""

    rows: int = 0
    files: list[Path] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def write_rows(
    rows: Rows | Stream,
    task: Task,
    renames: Mapping[str, str],
    count: int,
    folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Writes the columns that a task reads of the first `count` rows into `folder`, which must be absent or empty.

    A column that a modality of the task writes becomes a file, words stand in metadata.jsonl beside the files' names.
    A row that cannot be read is skipped. Raises BridgeflowError where the folder holds something or cannot be
    written, or where no row can be read.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BridgeflowError(f"{str(folder)!r} holds something already: choose another --output.")
    written = Written()
    lines: list[str] = []
    try:
        durable.make_folder(folder)
        for index, row in in_order(rows, count):
            try:
                if isinstance(row, BridgeflowError):
                    raise row
                facts, files = _write_row(row, task, renames, folder, f"{index:06d}")
            except BridgeflowError as error:
                place = "" if isinstance(row, BridgeflowError) else describe_row(row, index)
                written.broken.append(bounded(printable(placed(str(error), place))))
            else:
                written.rows += 1
                written.files += files
                lines.append(json.dumps(facts, ensure_ascii=False))
            if on_progress is not None:
                on_progress(index + 1, count)
        if not lines:
            first = f" ({written.broken[0]})" if written.broken else ""
            raise BridgeflowError(f"no row of {rows.description} can be written{first}: see bridgeflow data check.")
        durable.write_whole(folder / METADATA, "\n".join(lines) + "\n")
    except OSError as error:
        raise BridgeflowError(
            f"{str(folder)!r} cannot be written ({error.strerror or error}): choose another --output."
        ) from error
    written.files.append(folder / METADATA)
    return written


def _write_row(
    row: Mapping[str, Any], task: Task, renames: Mapping[str, str], folder: Path, name: str
) -> tuple[dict[str, Any], list[Path]]:
    """What metadata.jsonl says of a row, and the files that were written."""
    facts: dict[str, Any] = {}
    files: list[Path] = []
    complete = named(row, renames)
    for column in task.columns:
        if complete.get(column) is None:
            raise BridgeflowError(f"the column {renames.get(column, column)!r} is empty.")
    # Where both sides have such items, the target's modality writes them.
    writers = {column: own[-1] for column in task.columns if (own := modalities_of(task, column))}
    several = sum(not own.textual for own in writers.values()) > 1
    for column in task.columns:
        modality = writers.get(column)
        if modality is None or modality.textual:
            facts[column] = _in_words(complete[column], modality, column)
            continue
        # Each kind in a folder of its own where there are several: `run` takes all files of a folder.
        place = folder / column if several else folder
        made = modality.write(modality.read(complete[column]), place / f"{name}{modality.writes}")
        files += made
        # A folder's data set has its pictures under this name.
        facts["file_name" if column == "image" else f"{column}_file_name"] = made[0].relative_to(folder).as_posix()
    return facts, files


def _in_words(value: Any, modality: Modality | None, column: str) -> Any:
    """A value as metadata.jsonl holds it. Raises BridgeflowError where it cannot."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    if modality is not None:
        return [modality.read(own) for own in value] if several else modality.read(value)
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise BridgeflowError(
            f"the column {column!r} holds a {type(value).__name__}, which no modality of the task writes to a file."
        ) from error
    return value
