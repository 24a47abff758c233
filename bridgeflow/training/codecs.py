"""Fitting the codec of one modality to a data set, apart from training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from bridgeflow import registry
from bridgeflow.assembly.codec_files import save_codec
from bridgeflow.checkpoints.tensor_file import reason_of
from bridgeflow.config import layers, recipe
from bridgeflow.config.validation import validated
from bridgeflow.data.choices import read_drawn
from bridgeflow.data.pairs import describe_row, in_order, placed, usable
from bridgeflow.data.rows import DataSettings
from bridgeflow.data.shards import ShardStream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Modality
from bridgeflow.runtime.console import Progress
from bridgeflow.runtime.lock import FolderLock
from bridgeflow.runtime.precision import warn_of_slow_bf16
from bridgeflow.runtime.randomness import seed_of


@dataclass
class Fitted:
    """figures: how well the codec reconstructs; unreadable: a sentence for each row skipped."""

    examples: int
    figures: dict[str, float]
    unreadable: list[str] = field(default_factory=list)


def fit_codec(
    name: str,
    data: str,
    overrides: Sequence[str],
    column: str | None,
    count: int,
    seed: int,
    folder: Path,
    console: Progress,
) -> Fitted:
    """Fits a modality's codec to at most `count` training rows and writes it to `folder`.

    Raises UsageError where the modality, its options or the column do not fit, or the folder is in use.
    """
    try:
        lock = FolderLock(folder, "the codec in", console.warn)
    except OSError as error:
        raise _not_written(folder, error) from error
    with lock:
        return _fit(name, data, overrides, column, count, seed, folder, console)


def _not_written(folder: Path, error: Exception) -> BridgeflowError:
    return BridgeflowError(
        f"the codec cannot be written to {str(folder)!r} ({reason_of(error)}): free some space or "
        " choose another --output."
    )


def _fit(
    name: str,
    data: str,
    overrides: Sequence[str],
    column: str | None,
    count: int,
    seed: int,
    folder: Path,
    console: Progress,
) -> Fitted:
    modality = _build(name, overrides)
    if not modality.needs_fit:
        fix = "set another codec.name" if "codec" in type(modality.options).model_fields else "use it as it is"
        raise UsageError(f"modality {name!r} has nothing to fit with these options: {fix}.")
    if (folder / "codec.json").exists():
        raise UsageError(f"{str(folder)!r} holds a codec already: choose another --output.")
    section = recipe.data_section(data)
    settings: type[DataSettings] = registry.load("dataset", section.pop("name"))
    with console.doing("opening the data"):
        rows = settings(**section).open("train", lambda done, total, what: console(done, total, what))
    wanted = column or modality.column
    if isinstance(rows, ShardStream):
        rows.look_for([wanted])
    if wanted not in rows.columns:
        raise UsageError(f"{rows.description} has no column {wanted!r}, only {', '.join(rows.columns)}: set --column.")
    fitted = Fitted(0, {})
    rng = np.random.default_rng(seed)

    def read(index: int, row: dict[str, Any] | BridgeflowError) -> Item | BridgeflowError:
        if isinstance(row, BridgeflowError):
            return row
        try:
            if row.get(wanted) is None:
                raise BridgeflowError(f"the column {wanted!r} is empty.")
            return read_drawn(row[wanted], modality.read, rng)
        except BridgeflowError as error:
            return BridgeflowError(placed(str(error), describe_row(row, index)))

    def items() -> Iterator[Item]:
        for item in usable((read(index, row) for index, row in in_order(rows)), count):
            if isinstance(item, BridgeflowError):
                fitted.unreadable.append(str(item))
            else:
                fitted.examples += 1
                yield item

    warn_of_slow_bf16("cpu", console.warn, **{"": modality.options})
    torch.manual_seed(seed_of(seed, "fit", name))
    readable = items()
    with console.doing("reading the first row"):
        first = next(readable, None)
    if first is None:
        raise BridgeflowError(f"no row of {rows.description} can be read: {(fitted.unreadable or ['it is empty.'])[0]}")
    with console.doing("fitting the codec"):
        fitted.figures = modality.fit(chain([first], readable), lambda done, total, what: console(done, total, what))
    try:
        save_codec(modality, folder, {"modality": name, "data": rows.description, "figures": fitted.figures})
    except (OSError, SafetensorError) as error:
        raise _not_written(folder, error) from error
    return fitted


def _build(name: str, overrides: Sequence[str]) -> Modality:
    kind: type[Modality] = registry.load("modality", name)
    tree: layers.Tree = dict(kind.fit_options)
    for assignment in overrides:
        tree = layers.override(tree, assignment)
    mistakes: list[str] = []
    options = validated(kind.Options, tree, "", mistakes)
    if mistakes:
        raise UsageError(f"the options of modality {name!r} have a mistake: {' '.join(mistakes)}")
    return kind(options)
