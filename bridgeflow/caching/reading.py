"""From rows to the collated chunks of a shard: what can be read, what cannot, in an order that is always the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bridgeflow.data.pairs import describe_row, placed, read_pair
from bridgeflow.data.rows import Rows, Split, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item
from bridgeflow.runtime.randomness import seed_of
from bridgeflow.task import Task

Read = dict[str, Any] | BridgeflowError
"""A row, or why it cannot be read."""
Draws = list[tuple[Item, Item]]
"""The pairs of a row, one for each variant."""
Entry = TypeVar("Entry")


@dataclass
class Chunk:
    """Rows that are encoded together. source and target: a collated batch of the rows kept for each variant. kept: what
    a person would call each of them, by its number. failures: a sentence for each row that is not among them."""

    source: list[dict[str, Tensor]] = field(default_factory=list)
    target: list[dict[str, Tensor]] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairRows:
    """Pairs and collates rows of a split; picklable, for processes that read ahead.

    A held-out row is paired with the draw that its evaluation makes.
    """

    task: Task
    renames: Mapping[str, str]
    split: Split
    variants: int

    def __call__(self, rows: Sequence[tuple[int, Read]]) -> Chunk | BridgeflowError:
        """The chunk of numbered rows; an error that is not one row's is handed on."""
        failures: dict[int, str] = {}
        pairs: dict[int, Draws] = {}
        names = {index: _name(row, index) for index, row in rows}
        for index, row in rows:
            try:
                pairs[index] = self._draws(index, row)
            except BridgeflowError as error:
                failures[index] = placed(str(error), names[index])
        try:
            return self._collated(pairs, names, failures)
        except BridgeflowError:
            # One of the items cannot be brought into a batch: the rows are tried alone to find it.
            for index in list(pairs):
                try:
                    self._collated({index: pairs[index]}, names, {})
                except BridgeflowError as error:
                    failures[index] = placed(str(error), names[index])
                    del pairs[index]
        try:
            return self._collated(pairs, names, failures)
        except BridgeflowError as error:
            return error

    def _draws(self, index: int, row: Read) -> Draws:
        if isinstance(row, BridgeflowError):
            raise row
        if self.split == "held_out":
            seeds = [seed_of("evaluation", index)]
        else:
            seeds = [seed_of("cache", variant, index) for variant in range(self.variants)]
        return [read_pair(self.task, row, self.renames, index, seed) for seed in seeds]

    def _collated(self, pairs: Mapping[int, Draws], names: Mapping[int, str], failures: dict[int, str]) -> Chunk:
        chunk = Chunk(kept={index: names[index] for index in pairs}, failures=failures)
        if pairs:
            for draw in zip(*pairs.values(), strict=True):
                chunk.source.append(self.task.from_modality.collate([pair[0] for pair in draw]))
                chunk.target.append(self.task.to_modality.collate([pair[1] for pair in draw]))
        return chunk


def _name(row: Read, index: int) -> str:
    # The error of a row that cannot be read names it.
    return "" if isinstance(row, BridgeflowError) else describe_row(row, index)


def batched(entries: Iterable[Entry], count: int) -> Iterator[list[Entry]]:
    """Entries in lists of `count`, the last of them perhaps shorter."""
    rest = iter(entries)
    while part := list(islice(rest, count)):
        yield part


class _Numbered(Dataset[tuple[int, Read]]):
    """Rows with their numbers; in place of one that cannot be read, the error."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitem__(self, index: int) -> tuple[int, Read]:
        try:
            return index, self.rows[index]
        except BridgeflowError as error:
            return index, error


def read_shards(
    rows: Rows, shards: Sequence[int], shard_rows: int, chunk: int, pair: PairRows, workers: int
) -> Iterator[tuple[int, int, list[Chunk]]]:
    """(number, rows of the data, chunks) of the shards asked for, each read from its first row on."""
    spans = {number: range(number * shard_rows, min((number + 1) * shard_rows, len(rows))) for number in shards}
    loader = DataLoader(
        _Numbered(rows),
        batch_sampler=[part for span in spans.values() for part in batched(span, chunk)],
        collate_fn=pair,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    read = iter(loader)
    for number, span in spans.items():
        yield number, len(span), [_whole(next(read)) for _ in batched(span, chunk)]


def stream_shards(
    rows: Stream, present: frozenset[int], rank: int, world: int, shard_rows: int, chunk: int, pair: PairRows
) -> Iterator[tuple[int, int, list[Chunk] | None]]:
    """The same of a stream, from the first shard of this process that is missing to the stream's end. Every shard on
    the way is given, those that another process makes or that are there without chunks."""
    number = next(n for n in _from(rank, world) if n not in present)
    stream = rows.rows_from(number * shard_rows, 0)
    position = number * shard_rows
    while True:
        own = number % world == rank and number not in present
        count = 0
        chunks: list[Chunk] = []
        for part in batched(islice(stream, shard_rows), chunk):
            if own:
                chunks.append(_whole(pair([(position + count + place, row) for place, row in enumerate(part)])))
            count += len(part)
        if count:
            yield number, count, chunks if own else None
        if count < shard_rows:
            return
        number, position = number + 1, position + count


def _from(first: int, step: int) -> Iterator[int]:
    while True:
        yield first
        first += step


def _whole(chunk: Chunk | BridgeflowError) -> Chunk:
    if isinstance(chunk, BridgeflowError):
        raise chunk
    return chunk
