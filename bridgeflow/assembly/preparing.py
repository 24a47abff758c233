"""What comes before the first step, of training as of caching: rows with the columns that the task needs, and codecs
fitted to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from bridgeflow.assembly import Assembly, latents_known, share_codec
from bridgeflow.conditioned import item_at
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.advice import advice
from bridgeflow.data.pairs import check_columns, read_pairs
from bridgeflow.data.rows import EncodedRows, Rows, Split, Stream
from bridgeflow.data.shards import ShardStream
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item
from bridgeflow.modality import Progress as OnProgress
from bridgeflow.runtime.console import Progress, duration


def open_rows(recipe: Recipe, split: Split, console: Progress) -> Rows | Stream:
    """The rows of a split, once it is sure that they have the columns the task needs."""
    with console.doing(f"opening the {'training' if split == 'train' else 'held-out'} data"):
        return _with_columns(recipe, recipe.data.open(split, console), console)


def open_first_rows(recipe: Recipe, count: int, console: Progress) -> Rows | Stream:
    """At least the first `count` training rows, as `open_rows` gives them, where no others will be read."""
    with console.doing("opening the training data"):
        return _with_columns(recipe, recipe.data.open_first(count, console), console)


def _with_columns(recipe: Recipe, rows: Rows | Stream, console: Progress) -> Rows | Stream:
    if isinstance(rows, ShardStream):
        rows.look_for([recipe.columns.get(column, column) for column in recipe.task.columns])
    console.clear()
    if isinstance(rows, EncodedRows):
        rows.check_task(recipe.task_name)
    if not isinstance(rows, Rows) or len(rows):
        check_columns(recipe.task, recipe.task_name, rows.columns, recipe.columns, rows.description)
    return rows


def prepare_codecs(assembly: Assembly, rows: Rows | Stream, console: Progress) -> None:
    """Fits the codecs that still need it to the first training rows that can be read; a cache lends its own."""
    if isinstance(rows, EncodedRows):
        rows.lend_codecs(assembly)
        return
    started = time.monotonic()
    count = 0

    def items_of(place: str) -> Iterator[Item]:
        nonlocal count
        count = 0
        most = assembly.parts[place].most_fitted
        for pair in read_pairs(rows, assembly.task, assembly.recipe.columns, most):
            if not isinstance(pair, BridgeflowError):
                count += 1
                yield item_at(pair[:2], place)
        if count == 0:
            raise BridgeflowError(
                f"no row of {rows.description} can be read to fit a codec to: see why with bridgeflow data check."
            )

    with console.doing("fitting the codecs"):
        figures = _fit_codecs(assembly, items_of, lambda done, total, what: console(done, total, what))
    for place, own in figures.items():
        name = assembly.recipe.uses[place].name
        shown = "  ".join(f"{key} {value:.4g}" for key, value in own.items())
        console.say(f"fitted the {name} codec to {count:,} examples in {duration(time.monotonic() - started)}: {shown}")


def _fit_codecs(
    assembly: Assembly, items_of: Callable[[str], Iterable[Item]], progress: OnProgress | None = None
) -> dict[str, dict[str, float]]:
    """Fits whatever codec still needs it to the items of its place; figures by place.

    `items_of('target')` gives the items of that place one by one, so that no more than the codec keeps is held. A
    modality that needs no fitting and cannot be had is reported before another is fitted.
    """
    latents_known(assembly)
    figures: dict[str, dict[str, float]] = {}
    # The target comes first: sources may share its codec.
    for place, modality in reversed(assembly.parts.items()):
        share_codec(assembly)
        if modality.needs_fit:
            figures[place] = modality.fit(items_of(place), progress)
    return figures


def warn_of_losses(assembly: Assembly, rows: Rows | Stream, console: Progress) -> None:
    """Says what the modalities' options lose of the data; nothing of a cache, which is encoded already."""
    if not isinstance(rows, EncodedRows):
        if console.live:
            console.status("looking at the first rows")
        for sentence in advice(rows, assembly.task, assembly.recipe.columns):
            console.warn(sentence)
        console.clear()
