"""Metadata files: where each row lies in the file, found once, so that a million rows are no million objects."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from bridgeflow.data.files import check_file
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import quoted

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Files that list the rows of a folder."""
LONGEST_LINE = 1 << 24
"""Bytes of a line; a longer one is skipped without being read into memory."""
MOST_UNPACKED = 1 << 32
"""Most bytes that a Parquet file may become in memory."""
ENCODING = "save it in UTF-8"
_UNDECODED = re.compile("[\udc80-\udcff]")

Place = tuple[int, int, int]
"""(first byte, byte behind the last, line number) of a row; for Parquet the last two are 0."""
Found = tuple[Place, dict[str, Any] | BridgeflowError]


class MetadataFile(Protocol):
    """A file of rows."""

    path: Path

    def rows(self) -> Iterator[Found]:
        """Every row with its place, and in place of one that cannot be used the error."""
        ...

    def row(self, place: Place) -> dict[str, Any]:
        """The row at a place. Raises BridgeflowError where it cannot be used."""
        ...


def open_metadata(path: Path) -> MetadataFile:
    """The reader of a metadata file, by its ending. Raises BridgeflowError where it is no plain file."""
    check_file(path, "a metadata file")
    kinds: dict[str, type[JSONLines] | type[CSV] | type[Parquet]] = {".csv": CSV, ".parquet": Parquet}
    return kinds.get(path.suffix, JSONLines)(path)


class _Lines:
    """Lines of a file as bytes, each no longer than LONGEST_LINE, with the number of the last, where the next begins,
    and how many quotes there were."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = 0
        self.number = 0
        self.quotes = 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as stream:
                while line := stream.readline(LONGEST_LINE):
                    self.number += 1
                    self.place += len(line)
                    self.quotes += line.count(b'"')
                    rest = line
                    while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                        rest = stream.readline(LONGEST_LINE)
                        self.place += len(rest)
                    yield line
        except OSError as error:
            raise BridgeflowError(f"{self.path} cannot be read ({error.strerror}): fix its rights.") from error


class _ByPlace:
    """Reads pieces of a file that must not change meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = self._state()

    def _state(self) -> tuple[int, int]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise BridgeflowError(f"{self.path} cannot be read ({error.strerror}): put it back.") from error
        return found.st_size, found.st_mtime_ns

    def _piece(self, place: Place) -> bytes:
        if self._state() != self._stamp:
            raise BridgeflowError(f"{self.path} was changed while it was read: start again.")
        with self.path.open("rb") as stream:
            stream.seek(place[0])
            return stream.read(min(place[1] - place[0], LONGEST_LINE + 1))

    def _told(self, place: Place, problem: str) -> BridgeflowError:
        return BridgeflowError(f"{self.path}, line {place[2]} {problem}")

    def _text(self, piece: bytes, place: Place) -> str:
        """The text of a row's bytes. Raises BridgeflowError where it is too long or not UTF-8."""
        if len(piece) >= LONGEST_LINE:
            raise self._told(place, f"has more than {LONGEST_LINE:,} bytes: one row a line is expected.")
        try:
            return piece.decode("utf-8-sig" if place[0] == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise self._told(place, f"is not UTF-8 ({error.reason}): {ENCODING}.") from error


class JSONLines(_ByPlace):
    """One JSON object a line; empty lines are skipped."""

    def rows(self) -> Iterator[Found]:
        """Every row with its place."""
        lines, start = _Lines(self.path), 0
        for line in lines:
            place = (start, lines.place, lines.number)
            start = lines.place
            if line.strip():
                try:
                    yield place, self._parsed(line, place)
                except BridgeflowError as error:
                    yield place, error

    def row(self, place: Place) -> dict[str, Any]:
        """The object at a place."""
        return self._parsed(self._piece(place), place)

    def _parsed(self, line: bytes, place: Place) -> dict[str, Any]:
        try:
            row = json.loads(self._text(line, place))
        except json.JSONDecodeError as error:
            raise self._told(place, f"is not JSON ({error.msg}): one object a line is expected.") from error
        except (ValueError, RecursionError) as error:
            raise self._told(place, f"holds a value that is too large or too deep ({error}): leave it out.") from error
        if not isinstance(row, dict):
            raise self._told(place, 'is not a JSON object: {"file_name": ..., ...} is expected.')
        return row


class CSV(_ByPlace):
    """Comma-separated values under a heading; a cell in quotes may hold line ends."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.heading: list[str] = []

    def rows(self) -> Iterator[Found]:
        """Every row with its place. Raises BridgeflowError where the heading cannot be used."""
        lines = _Lines(self.path)
        reader = csv.reader(_as_csv(line, lines.number == 1) for line in lines)
        self.heading = []
        while True:
            start, number, lines.quotes = lines.place, lines.number + 1, 0
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                place = (start, lines.place, number)
                yield place, self._told(place, f"is not CSV ({error}): see to its quotes.")
                continue
            place = (start, lines.place, number)
            if not self.heading:
                self.heading = self._as_heading(cells, place)
            elif lines.number > number and lines.quotes % 2:
                yield place, self._unclosed(place)
            elif cells:
                try:
                    yield place, self._named(cells, place)
                except BridgeflowError as error:
                    yield place, error

    def row(self, place: Place) -> dict[str, Any]:
        """The row at a place, by the heading."""
        piece = self._piece(place)
        if b"\n" in piece[:-1] and piece.count(b'"') % 2:
            raise self._unclosed(place)
        text = io.StringIO(_as_csv(piece, False), newline="\n")
        try:
            return self._named(next(csv.reader(text), []), place)
        except csv.Error as error:
            raise self._told(place, f"is not CSV ({error}): see to its quotes.") from error

    def _unclosed(self, place: Place) -> BridgeflowError:
        return self._told(place, "opens a quote that nothing closes: close it, or double it to mean one.")

    def _as_heading(self, cells: list[str], place: Place) -> list[str]:
        if len(set(cells)) < len(cells):
            twice = next(cell for number, cell in enumerate(cells) if cell in cells[:number])
            raise self._told(place, f"names the column {quoted(twice)} twice: give each a name of its own.")
        for cell in cells:
            self._check_text(cell, place)
        return cells

    def _named(self, cells: list[str], place: Place) -> dict[str, Any]:
        for cell in cells:
            self._check_text(cell, place)
        if len(cells) > len(self.heading):
            raise self._told(place, "has more cells than the heading: put a text with a comma in quotes.")
        return dict(zip(self.heading, cells, strict=False))

    def _check_text(self, cell: str, place: Place) -> None:
        if not cell.isascii() and _UNDECODED.search(cell):
            raise self._told(place, f"is not UTF-8: {ENCODING}.")


def _as_csv(line: bytes, first: bool) -> str:
    """A line for the reader of CSV, which must see every line to know where rows end; what is not UTF-8 stays to be
    found in the cells."""
    return line.decode("utf-8-sig" if first else "utf-8", "surrogateescape")


class Parquet:
    """A Parquet file, held in memory as Arrow holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = self._read()

    def rows(self) -> Iterator[Found]:
        """Every row with its place."""
        number = 0
        for batch in self._table.to_batches(max_chunksize=8192):
            for row in batch.to_pylist():
                yield (number, 0, 0), row
                number += 1

    def row(self, place: Place) -> dict[str, Any]:
        """The row at a place."""
        row: dict[str, Any] = self._table.slice(place[0], 1).to_pylist()[0]
        return row

    def _read(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        batches, size = [], 0
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=8192):
                    batches.append(batch)
                    size += batch.nbytes
                    if size > MOST_UNPACKED:
                        raise BridgeflowError(
                            f"{self.path} unpacks to more than {MOST_UNPACKED >> 30} GiB: keep pictures in files of "
                            "their own, and name those in it."
                        )
                return pyarrow.Table.from_batches(batches, file.schema_arrow)
        except (OSError, pyarrow.ArrowException, MemoryError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise BridgeflowError(f"{self.path} cannot be read ({first}): it must be Parquet.") from error
