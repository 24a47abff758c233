"""From streams to batches: which rows are a process's own, reading ahead, and rows that stand in for broken ones."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset

from bridgeflow.data.pairs import MOST_TRIES, Batch, Pair, check_pair, collated, describe_row, read_pair, unreadable
from bridgeflow.data.rows import NOTHING_LEFT, Stream
from bridgeflow.data.shards import SIDE_BY_SIDE, Entry, ShardStream
from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.randomness import seed_of
from bridgeflow.task import Task

T = TypeVar("T")
_Batches = Generator[list["_Placed"], None, None]

NEAR = 16
"""Rows one after another that cannot be used before rows drawn from all shards stand in for them."""
AHEAD = 4
"""Batches that each worker process is given ahead of time."""


class _Placed(NamedTuple):
    """A row on its way and its place in the endless sequence of pairs."""

    position: int
    entry: Entry


class _Decoded(Dataset[Pair | BridgeflowError]):
    """The pair of a row on its way, or the error where it cannot be read."""

    def __init__(self, load: Callable[[Any], Any], task: Task, renames: Mapping[str, str], seed: int) -> None:
        self.load, self.task, self.renames, self.seed = load, task, renames, seed

    def __getitem__(self, placed: _Placed) -> Pair | BridgeflowError:
        row = self.load(placed.entry.token)
        if isinstance(row, BridgeflowError):
            return row
        position = placed.position
        try:
            items = read_pair(self.task, row, self.renames, position, seed_of(self.seed, "pair", position))
            return Pair(*items, describe_row(row, position))
        except BridgeflowError as error:
            return error

    def alone(self, placed: _Placed) -> Pair | BridgeflowError:
        """The pair of a row which can also be brought into a batch."""
        return _checked(self.task, self[placed])


def _checked(task: Task, pair: Pair | BridgeflowError) -> Pair | BridgeflowError:
    try:
        if isinstance(pair, Pair):
            check_pair(task, pair[:2], pair.name)
    except BridgeflowError as error:
        return error
    return pair


@dataclass(frozen=True)
class _Collated:
    """The batch where all its rows can be used; else the pairs and errors, for others to stand in for the broken."""

    task: Task

    def __call__(self, made: list[Pair | BridgeflowError]) -> Batch | list[Pair | BridgeflowError] | BridgeflowError:
        why: BridgeflowError | None = None
        pairs = [pair for pair in made if isinstance(pair, Pair)]
        if len(pairs) == len(made):
            try:
                return collated(self.task, pairs)
            except BridgeflowError as error:
                why = error
        apart = [_checked(self.task, pair) for pair in made]
        whole = all(isinstance(pair, Pair) for pair in apart)
        return why if why is not None and whole else apart


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

    The next row of this process that can be used stands in for one that cannot, so that a batch does not depend on
    what broke before it; where too many that follow cannot either, rows drawn from all shards do. Rows are read in
    order by one thread; with `workers`, as many processes decode and collate them, and the batches are the same however
    many there are.
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
            yield made if isinstance(made, Batch) else collated(task, *_stood_in(rows, own, made, later(), decoded))
    finally:
        source.close()


def _as_it_is(token: Any) -> Any:
    return token


def _stood_in(
    rows: Stream,
    own: Sequence[_Placed],
    made: Sequence[Pair | BridgeflowError],
    later: Iterator[_Placed],
    decoded: _Decoded,
) -> tuple[list[Pair], list[str]]:
    """As many pairs as rows, and a sentence for each that is broken: the next one that can be used comes again for
    each of them, and where that is too far off, rows from all shards do."""
    pairs: list[Pair] = []
    failures: list[str] = []
    told: list[str] = []
    started = own[0]
    previous = own[0].entry.epoch
    most = NEAR if isinstance(rows, ShardStream) else MOST_TRIES
    following = ((placed, decoded.alone(placed)) for placed in later)
    for place, (placed, pair) in enumerate(chain(zip(own, made, strict=True), following)):
        if not failures:
            started = placed
        # Nothing of a whole epoch of this process can be used.
        elif placed.entry.epoch != previous and (started.entry.first or started.entry.epoch != previous):
            break
        previous = placed.entry.epoch
        if isinstance(pair, BridgeflowError):
            failures.append(str(pair))
            if place >= len(own) - 1 and len(failures) >= most:
                break
            continue
        # What broke in later batches is reported with those.
        told += failures[: len(own) - len(pairs)] if place >= len(own) else failures
        pairs += [pair] * min(len(failures) + 1, len(own) - len(pairs))
        failures = []
        if len(pairs) == len(own):
            return pairs, told
    missing = len(own) - len(pairs)
    drawn, more = _drawn(rows, decoded, own[0].position, missing)
    if not drawn:
        raise unreadable(list(dict.fromkeys(failures + more)))
    return pairs + list(islice(cycle(drawn), missing)), told + failures[:missing]


def _drawn(rows: Stream, decoded: _Decoded, position: int, wanted: int) -> tuple[list[Pair], list[str]]:
    """Pairs of rows drawn from all shards, at most `wanted`, and why others cannot be used; none where those are so
    many that none is to be expected, or only reading on leads to other rows."""
    found: list[Pair] = []
    failures: list[str] = []
    if isinstance(rows, ShardStream):
        # To reach a place far off takes long where shards can only be read from the first byte on.
        wanted = wanted if rows.shards.seekable else min(wanted, SIDE_BY_SIDE)
        rng = np.random.default_rng(seed_of(decoded.seed, "stand-in", position))
        for number, token in enumerate(rows.drawn(rng), 1):
            pair = decoded.alone(_Placed(position + number, Entry(0, False, token)))
            if isinstance(pair, Pair):
                found.append(pair)
            else:
                failures.append(str(pair))
            if len(found) == wanted or len(failures) == MOST_TRIES:
                break
    return found, failures


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
