"""Data in shards: what they are, how long they turn out to be, and which of their rows are held out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from bridgeflow.errors import BridgeflowError, UsageError

Token = Any
"""What `Shards.load` makes a row of: a place in a file, or the row itself; or the error that stands in its stead."""


class Shards(Protocol):
    """Files, or parts of them, that hold rows one after another."""

    @property
    def names(self) -> Sequence[str]:
        """What a person would call each shard."""
        ...

    @property
    def seekable(self) -> bool:
        """True where a row anywhere is reached as quickly as the next one, and lengths cost little."""
        ...

    def count(self, shard: int) -> int | None:
        """Rows of a shard; None where only reading them shows it."""
        ...

    def note(self, shard: int, rows: int) -> None:
        """Keeps the length that a shard was found to have."""
        ...

    def read(self, shard: int, start: int) -> Iterator[Token]:
        """The rows of a shard from number `start` on, a BridgeflowError in place of one that cannot be read."""
        ...

    def load(self, token: Token) -> dict[str, Any] | BridgeflowError:
        """The row, or the error, that a token stands for."""
        ...

    def columns(self, token: Token) -> set[str]:
        """The columns of a row; none of one that cannot be read."""
        ...


def digest(*names: str) -> str:
    """16 hexadecimal digits that change when the names would."""
    hashed = hashlib.sha256()
    for name in names:
        hashed.update(name.encode() + b"\0")
    return hashed.hexdigest()[:16]


class Lengths:
    """Lengths of shards that were found once, kept in a file that several processes add to."""

    def __init__(self, key: str) -> None:
        root = Path(os.environ.get("BRIDGEFLOW_CACHE") or "~/.cache/bridgeflow").expanduser()
        self.file = root / "shards" / f"{key}.jsonl"
        self._known: dict[str, int] = {}
        try:
            lines = self.file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return
        for line in lines:
            try:
                name, rows = json.loads(line)
                self._known[str(name)] = int(rows)
            except (ValueError, TypeError):
                # A line cut short by a kill: that shard is counted again.
                continue

    def get(self, name: str) -> int | None:
        """The length kept for a shard's name."""
        return self._known.get(name)

    def keep(self, name: str, rows: int) -> None:
        """Keeps a length, in the file too where that can be written: it only saves counting again."""
        if self._known.get(name) == rows:
            return
        self._known[name] = rows
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps([name, rows]) + "\n")
        except OSError:
            return


HELD_OUT_ROWS = 256
"""Rows held out where no other number is asked for; at most a tenth of all then."""


def rows_to_hold_out(rows: int, asked: int, name: str) -> int:
    """How many of so many rows are held out: the number that was asked for, or `HELD_OUT_ROWS`, at most a tenth.

    Raises UsageError where nothing would be left to train on.
    """
    if asked == HELD_OUT_ROWS:
        return min(asked, rows // 10)
    if asked >= rows:
        raise UsageError(
            f"data.held_out_rows={asked:,} leaves none of the {rows:,} rows of {name} to train on: set fewer."
        )
    return asked


def rows_to_hold_out_of(shards: Shards, asked: int) -> int:
    """The same of shards, as the first one's length lets expect; where that is unknown, as many as are asked for.

    Raises UsageError where one shard has fewer rows than that.
    """
    first = shards.count(0)
    if first is None:
        return asked
    if asked == HELD_OUT_ROWS or len(shards.names) == 1:
        return rows_to_hold_out(first * len(shards.names), asked, shards.names[0])
    if asked > first:
        raise _too_few(asked, first, shards.names[0])
    return asked


def _too_few(asked: int, rows: int, name: str) -> UsageError:
    return UsageError(
        f"data.held_out_rows={asked:,} is more than the {rows:,} rows of {name} that can be held out: set fewer, or "
        "name what is held out with data.held_out."
    )
