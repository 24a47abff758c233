"""Streams that are read from shards: in what order, which rows are a process's own, and how to begin in the middle.

The order is computed, never stored: the row at a place of an epoch follows from (seed, epoch, rank, world) and the
lengths of shards. Beginning in the middle skips whole shards by their lengths, so that a checkpoint need hold no more
than the number of pairs seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch

from bridgeflow.data.holding_out import Shards, Token, _too_few, digest
from bridgeflow.data.rows import NOTHING_LEFT
from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.randomness import generator

UNSHUFFLED_BLOCK = 256
"""Rows side by side that go to one process where nothing is shuffled."""

SIDE_BY_SIDE = 4
"""Rows that are taken from a place drawn at random."""
_WINDOW = 64
"""Rows among which these are drawn where a place far off takes long to reach."""
_LOOKED_INTO = 32
_SURE = 16
"""Rows that are read to see whether rows lack columns, in shards that are not seekable."""
_LOOKED_AT = {True: 100_000, False: 2000}
"""Rows in which columns are looked for, in shards that are seekable and in others."""


class Part:
    """The shards without some rows side by side, or those rows alone: the first `held` of the first shard, until
    `choose` finds others.

    exact: whether neither fewer nor more rows than `held` will do.
    """

    def __init__(self, shards: Shards, held: int, inside: bool, exact: bool = False) -> None:
        self.whole, self.held, self.inside, self.exact = shards, held, inside, exact
        self.shard, self.start = 0, 0
        """Where the rows held out begin."""
        self.seekable = shards.seekable
        self.load = shards.load
        self.columns = shards.columns

    @property
    def names(self) -> Sequence[str]:
        """As `Shards.names`."""
        return [self.whole.names[self.shard]] if self.inside else self.whole.names

    def choose(self, wanted: Collection[str]) -> bool:
        """Holds out the first `held` rows that have the wanted columns: those before lack one, and training skips
        such rows. Whether these are others than so far; they lie in one shard, with what is between them.

        Of shards that are not seekable a few of the first rows show whether there is anything to look for. Raises
        UsageError where an exact number is not to be had.
        """
        sure = self.held if self.seekable else min(self.held, _SURE)
        if all(self._has(token, wanted) for token in islice(self.whole.read(0, 0), sure)):
            return False
        left = _LOOKED_AT[self.seekable]
        for shard in range(len(self.whole.names)):
            found: list[int] = []
            for number, token in enumerate(islice(self.whole.read(shard, 0), left)):
                left -= 1
                if self._has(token, wanted):
                    found.append(number)
                if len(found) > self.held:
                    break
            if found or left <= 0:
                return bool(found) and self._take(shard, found)
        return False

    def _has(self, token: Token, wanted: Collection[str]) -> bool:
        """Whether a row has the columns, and something in them. What their names say comes first: it reads less."""
        if not self.columns(token).issuperset(wanted):
            return False
        row = self.load(token)
        return not isinstance(row, BridgeflowError) and all(row.get(column) is not None for column in wanted)

    def _take(self, shard: int, found: Sequence[int]) -> bool:
        """Holds out the first of the rows found in a shard: all that it has, or one more than are held out."""
        count = min(self.held, len(found))
        # All of the last shard's rows would leave nothing to train on.
        left = len(found) > count or shard + 1 < len(self.whole.names)
        if self.exact and (count < self.held or not left):
            raise _too_few(self.held, len(found) if left else len(found) - 1, self.whole.names[shard])
        if not left:
            count = max(1, count // 2)
        before = self.shard, self.start, self.held
        self.shard, self.start = shard, found[0]
        self.held = found[count - 1] + 1 - self.start
        return before != (self.shard, self.start, self.held)

    def count(self, shard: int) -> int | None:
        """As `Shards.count`."""
        rows = self.whole.count(self.shard if self.inside else shard)
        if rows is None or (shard != self.shard and not self.inside):
            return rows
        apart = max(0, min(rows - self.start, self.held))
        return apart if self.inside else rows - apart

    def note(self, shard: int, rows: int) -> None:
        """As `Shards.note`."""
        if not self.inside:
            # A shard no longer than what is held out of it: its own length is not known from what is left.
            if shard == self.shard and rows <= self.start:
                return
            self.whole.note(shard, rows + (self.held if shard == self.shard else 0))

    def read(self, shard: int, start: int) -> Iterator[Token]:
        """As `Shards.read`."""
        if self.inside:
            return islice(self.whole.read(self.shard, self.start + start), max(0, self.held - start))
        if shard != self.shard:
            return self.whole.read(shard, start)
        if start >= self.start:
            return self.whole.read(shard, start + self.held)
        return self._around(start)

    def _around(self, start: int) -> Iterator[Token]:
        """The rows from `start` on, before those held out, then the ones behind these."""
        for number, token in enumerate(self.whole.read(self.shard, start), start):
            if not self.start <= number < self.start + self.held:
                yield token


class _Epoch:
    """The rows of an epoch, shard after shard."""

    def __init__(self, shards: Shards, order: Sequence[int]) -> None:
        self.shards, self.order = shards, order
        self.place = 0
        """Of the present shard in the order."""
        self.base = 0
        """Rows of the shards before it."""
        self.at = 0
        self._rows: Iterator[Token] | None = None

    def _length(self, place: int) -> int:
        shard = self.order[place]
        rows = self.shards.count(shard)
        if rows is None:
            rows = sum(1 for _ in self.shards.read(shard, 0))
            self.shards.note(shard, rows)
        return rows

    def rows_up_to(self, most: int) -> int:
        """How many rows there are, at most `most`; lengths are asked for only as far as that takes."""
        place, rows = self.place, self.base
        while place < len(self.order) and rows < most:
            rows += self._length(place)
            place += 1
        return min(rows, most)

    def _seek(self, start: int) -> None:
        self._rows = None
        while self.place < len(self.order) and start >= self.base + (rows := self._length(self.place)):
            self.base += rows
            self.place += 1
        self.at = start if self.place < len(self.order) else self.base

    def take(self, start: int, stop: int) -> list[Token]:
        """Rows from `start` to `stop`, fewer at the end of the epoch."""
        if start != self.at:
            self._seek(start)
        taken: list[Token] = []
        while self.at < stop and self.place < len(self.order):
            if self._rows is None:
                self._rows = self.shards.read(self.order[self.place], self.at - self.base)
            more = list(islice(self._rows, stop - self.at))
            taken += more
            self.at += len(more)
            if self.at < stop:
                self.shards.note(self.order[self.place], self.at - self.base)
                self.base, self.place, self._rows = self.at, self.place + 1, None
        return taken


def _spread(shards: Shards) -> Iterator[Token]:
    """The first rows of some of the shards, then all rows."""
    for shard in range(0, len(shards.names), -(-len(shards.names) // _LOOKED_INTO)):
        yield from islice(shards.read(shard, 0), _LOOKED_INTO)
    for shard in range(len(shards.names)):
        yield from shards.read(shard, 0)


class Entry(NamedTuple):
    """A row on its way: the epoch it belongs to, whether it is this process's first of that epoch, and its token."""

    epoch: int
    first: bool
    token: Token


class ShardStream:
    """A stream read from shards: these shuffled in each epoch, then their rows within a block of `buffer` rows.

    Several processes share an epoch. Where rows are reached anywhere, or there are fewer shards than processes, each
    takes `buffer` rows side by side of every `world * buffer`; else each takes whole shards, and none is read twice.
    """

    def __init__(
        self, shards: Shards, columns: Sequence[str], description: str, fingerprint: str, buffer: int, seed: int = 0
    ) -> None:
        self.shards = shards
        self.columns = tuple(columns)
        self.description = description
        self.fingerprint = fingerprint
        self.buffer = buffer
        self.seed = seed

    def load(self, token: Token) -> dict[str, Any] | BridgeflowError:
        """The row that an entry's token stands for, or the error where it cannot be read."""
        return self.shards.load(token)

    def rows_from(self, position: int, epoch: int) -> Iterator[dict[str, Any]]:
        """Rows of an epoch from a position on; a BridgeflowError in place of one that cannot be read."""
        for token in self._tokens(position, epoch, self.seed, 0, 1):
            yield self.load(token)  # type: ignore[misc]

    def own_rows(self, position: int, seed: int, rank: int = 0, world: int = 1) -> Iterator[Entry]:
        """The rows of one of `world` processes without end, from where `position` rows were taken by all together.

        With the same number of processes these are the rows that would have come next. With another one, the rows
        taken so far are kept out of what is left of the epoch but for `buffer` rows of each process, and, where whole
        shards are shared out, for what these differ in length.
        """
        epoch, skip = self._begin(position // world, seed, rank, world)
        empty = 0
        while True:
            first = True
            for token in self._tokens(skip, epoch, seed, rank, world):
                yield Entry(epoch, first and not skip, token)
                first = False
            empty = empty + 1 if first and not skip else 0
            if empty > 1:
                raise BridgeflowError(f"{self.description}: {NOTHING_LEFT}")
            epoch, skip = epoch + 1, 0

    def look_for(self, wanted: Collection[str]) -> None:
        """Adds to `columns` those of further rows until all that are wanted were met: some first rows of shards, then
        one after another, up to a number that can be read in seconds. Rows that lack one of them are not held out.

        Raises UsageError where fewer rows can be held out than were asked for.
        """
        missing = set(wanted) - set(self.columns)
        shards = self.shards.whole if isinstance(self.shards, Part) else self.shards
        met = dict.fromkeys(self.columns)
        for token in islice(_spread(shards), _LOOKED_AT[shards.seekable] if missing else 0):
            own = shards.columns(token)
            met.update(dict.fromkeys(sorted(own)))
            missing -= own
            if not missing:
                break
        self.columns = tuple(met)
        if not missing and isinstance(self.shards, Part):
            first = self.shards.whole.names[0]
            if self.shards.choose(wanted):
                apart = self.shards
                self.description = self.description.replace(first, apart.names[0]) if apart.inside else self.description
                self.fingerprint = digest(self.fingerprint, str(apart.shard), str(apart.start), str(apart.held))

    def drawn(self, rng: np.random.Generator) -> Iterator[Token]:
        """Rows from all shards at places drawn by `rng`, a few side by side, without end. Of shards that are not
        seekable a few of the first rows, then of later and later ones, whatever is known of their lengths by now: the
        same for every process and after a resume."""
        seekable = self.shards.seekable
        unread = list(range(len(self.shards.names)))
        for turn in count():
            for shard in rng.permutation(unread).tolist():
                if seekable:
                    start = int(rng.integers(max(1, (self.shards.count(shard) or 0) - SIDE_BY_SIDE + 1)))
                else:
                    start = _WINDOW * 4**turn if turn else 0
                near = list(islice(self.shards.read(shard, start), SIDE_BY_SIDE if seekable else _WINDOW))
                yield from (near[place] for place in rng.permutation(len(near))[:SIDE_BY_SIDE])
                if not near:
                    unread.remove(shard)
            if not unread:
                return

    # -- the order ---------------------------------------------------------------------------------------

    @property
    def _block(self) -> int:
        return self.buffer or UNSHUFFLED_BLOCK

    def _epoch(self, epoch: int, seed: int, rank: int, world: int) -> tuple[_Epoch, int, int]:
        """The epoch's shards for a process, and which of how many shares of their rows is its own."""
        count = len(self.shards.names)
        order = list(range(count))
        if self.buffer:
            order = torch.randperm(count, generator=generator(seed, "shards", epoch)).tolist()
        if world > 1 and not self.shards.seekable and count >= world:
            return _Epoch(self.shards, order[rank::world]), 0, 1
        return _Epoch(self.shards, order), rank, world

    def _begin(self, skip: int, seed: int, rank: int, world: int) -> tuple[int, int]:
        """(epoch, rows of it to skip) for a process that took `skip` rows."""
        epoch = 0
        while skip:
            rows, part, parts = self._epoch(epoch, seed, rank, world)
            window = self._block * parts
            enough = (skip // self._block + 1) * window
            total = rows.rows_up_to(enough)
            if total == enough:
                break
            whole, rest = divmod(total, window)
            own = whole * self._block + rest * (part + 1) // parts - rest * part // parts
            if own > skip:
                break
            if own == 0 and total == 0:
                raise BridgeflowError(f"{self.description}: {NOTHING_LEFT}")
            if parts == world:
                # Every epoch is as long as this one.
                return (skip // own, skip % own) if own else (0, 0)
            epoch, skip = epoch + 1, skip - own
        return epoch, skip

    def _tokens(self, skip: int, epoch: int, seed: int, rank: int, world: int) -> Iterator[Token]:
        """A process's own rows of an epoch, without the first `skip`."""
        rows, part, parts = self._epoch(epoch, seed, rank, world)
        number, skip = divmod(skip, self._block)
        window = self._block * parts
        while True:
            start, stop = number * window, (number + 1) * window
            ended = False
            if parts > 1:
                stop = rows.rows_up_to(stop)
                ended = stop < (number + 1) * window
                if stop <= start:
                    return
            length = stop - start
            tokens = rows.take(start + length * part // parts, start + length * (part + 1) // parts)
            ended = ended or (parts == 1 and len(tokens) < self._block)
            if self.buffer:
                order = torch.randperm(len(tokens), generator=generator(seed, "rows", epoch, number, rank))
                tokens = [tokens[place] for place in order.tolist()]
            yield from tokens[skip:]
            if ended:
                return
            number, skip = number + 1, 0
