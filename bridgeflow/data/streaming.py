"""From streams to batches: which rows are a process's own, reading ahead, and rows that stand in for broken ones."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from torch.utils.data import DataLoader, Dataset

from bridgeflow.data.batches import MOST_TRIES, Batch, Pair, collated, read_pair, unreadable
from bridgeflow.data.rows import NOTHING_LEFT, Stream
from bridgeflow.data.shards import Entry, ShardStream
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item
from bridgeflow.randomness import seed_of
from bridgeflow.task import Task

T = TypeVar("T")
_Batches = Generator[list["_Placed"], None, None]

AHEAD = 4
"""Batches that each worker process is given ahead of time."""


class _Placed(NamedTuple):
    """A row on its way and its place in the endless sequence of pairs."""

    position: int
    entry: Entry


class _Decoded(Dataset[tuple[Item, Item] | BridgeflowError]):
    """The pair of a row on its way, or the error where it cannot be read."""

    def __init__(self, load: Callable[[Any], Any], task: Task, renames: Mapping[str, str], seed: int) -> None:
        self.load, self.task, self.renames, self.seed = load, task, renames, seed

    def __getitem__(self, placed: _Placed) -> tuple[Item, Item] | BridgeflowError:
        row = self.load(placed.entry.token)
        if isinstance(row, BridgeflowError):
            return row
        position = placed.position
        try:
            return read_pair(self.task, row, self.renames, position, seed_of(self.seed, "pair", position))
        except BridgeflowError as error:
            return error


@dataclass(frozen=True)
class _Collated:
    """The batch where all its rows can be read; else the pairs and errors, for others to stand in for the broken."""

    task: Task

    def __call__(
        self, made: list[tuple[Item, Item] | BridgeflowError]
    ) -> Batch | list[tuple[Item, Item] | BridgeflowError] | BridgeflowError:
        pairs: list[Pair] = []
        for pair in made:
            if isinstance(pair, BridgeflowError):
                return made
            pairs.append((*pair, []))
        try:
            return collated(self.task, pairs)
        except BridgeflowError as error:
            return error


def streamed(
    rows: Stream,
    task: Task,
    renames: Mapping[str, str],
    batch_size: int,
    seed: int,
    position: int,
    workers: int,
    rank: int,
    world: int,
) -> Iterator[Batch]:
    """Batches of a stream from a position in the endless sequence of pairs on.

    The next row of this process that can be read stands in for one that cannot, so that a batch does not depend on
    what broke before it. Rows are read in order by one thread; with `workers`, as many processes decode and collate
    them, and the batches are the same however many there are.
    """
    whole = rows.load if isinstance(rows, ShardStream) else _as_it_is
    decoded = _Decoded(whole, task, renames, seed)
    source = _placed(rows, batch_size, seed, position, rank, world)
    if workers:
        source = read_ahead(source, AHEAD * workers)
    given: deque[list[_Placed]] = deque()
    returned: deque[list[_Placed]] = deque()

    def fresh() -> Iterator[list[_Placed]]:
        while True:
            batch = returned.popleft() if returned else next(source)
            given.append(batch)
            yield batch

    def later() -> Iterator[_Placed]:
        yield from chain.from_iterable(chain(list(given), list(returned)))
        while True:
            returned.append(next(source))
            yield from returned[-1]

    loader = DataLoader(
        decoded,
        batch_sampler=fresh(),
        collate_fn=_Collated(task),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
    )
    try:
        for made in loader:
            own = given.popleft()
            if isinstance(made, BridgeflowError):
                raise made
            yield made if isinstance(made, Batch) else collated(task, _stood_in(own, made, later(), decoded))
    finally:
        source.close()


def _as_it_is(token: Any) -> Any:
    return token


def _stood_in(
    own: Sequence[_Placed],
    made: Sequence[tuple[Item, Item] | BridgeflowError],
    later: Iterator[_Placed],
    decoded: _Decoded,
) -> list[Pair]:
    """As many pairs as rows: where rows are broken, the next one that can be read comes again for each of them."""
    pairs: list[Pair] = []
    failures: list[str] = []
    started = own[0]
    previous = own[0].entry.epoch
    following = ((placed, decoded[placed]) for placed in later)
    for place, (placed, pair) in enumerate(chain(zip(own, made, strict=True), following)):
        if not failures:
            started = placed
        elif placed.entry.epoch != previous and (started.entry.first or started.entry.epoch != previous):
            # Nothing of a whole epoch could be read.
            raise unreadable(failures)
        previous = placed.entry.epoch
        if isinstance(pair, BridgeflowError):
            failures.append(str(pair))
            if len(failures) >= MOST_TRIES:
                raise unreadable(failures)
            continue
        # What broke in later batches is told with those.
        told = failures[: len(own) - len(pairs)] if place >= len(own) else failures
        pairs += [(*pair, told if number == 0 else []) for number in range(len(failures) + 1)][: len(own) - len(pairs)]
        failures = []
        if len(pairs) == len(own):
            break
    return pairs


def _placed(rows: Stream, batch_size: int, seed: int, position: int, rank: int, world: int) -> _Batches:
    """A process's rows by the batch, numbered as the endless sequence of pairs has them."""
    if isinstance(rows, ShardStream):
        own = rows.own_rows(position, seed, rank, world)
    else:
        own = _every_nth(rows, batch_size, position, rank, world)
    start = position + rank * batch_size
    while True:
        yield [_Placed(start + number, next(own)) for number in range(batch_size)]
        start += world * batch_size


def _every_nth(rows: Stream, batch_size: int, start: int, rank: int, world: int) -> Iterator[Entry]:
    """The rows of a stream that does not share itself out: row p from `start` on goes to process
    (p - start) // batch_size, counted around. All rows before are read, for nobody knows how many an epoch has."""
    position, epoch = 0, 0
    while True:
        begun, first = position, position >= start
        for row in rows.rows_from(0, epoch):
            if position >= start and ((position - start) // batch_size) % world == rank:
                yield Entry(epoch, first, row)
                first = False
            position += 1
        if position == begun:
            raise BridgeflowError(f"{rows.description}: {NOTHING_LEFT}")
        epoch += 1


_END = object()


def read_ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The items in their order, at most `depth` of them read before they are asked for, by a thread."""
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(value: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(value, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        # Whatever went wrong is raised where the item is asked for.
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=read, name="reading ahead", daemon=True)
    try:
        thread.start()
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
