"""What streams of the `datasets` library are read from: rows on the disk, Parquet files, or iterable data sets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from bridgeflow.data.files import as_words
from bridgeflow.data.holding_out import Lengths, digest
from bridgeflow.data.rows import NamedRow
from bridgeflow.errors import BridgeflowError

ROWS_OF_A_PIECE = 1000
"""Rows side by side that count as one shard of a data set on the disk."""
_READ_AT_ONCE = 64


def media_columns(dataset: Any) -> frozenset[str]:
    """Columns that the data set itself says are pictures or sounds, stored as {'path', 'bytes'}."""
    import datasets

    features = getattr(dataset, "features", None) or {}
    kinds = datasets.Image | datasets.Audio
    return frozenset(name for name, feature in features.items() if isinstance(feature, kinds))


def in_words(row: Mapping[str, Any], media: frozenset[str], called: str) -> NamedRow:
    """The row by its name, whose strings are words and never paths of this machine, but in columns of pictures and
    sounds."""
    return NamedRow({name: value if name in media else as_words(value) for name, value in row.items()}, called)


def columns_of(row: dict[str, Any] | BridgeflowError) -> set[str]:
    """The columns of a row; none of one that cannot be read."""
    return set() if isinstance(row, BridgeflowError) else set(row)


class RowPieces:
    """A data set on the disk, in pieces; `first` is the number that its first row has in the whole split."""

    seekable = True

    def __init__(self, dataset: Any, name: str, first: int = 0) -> None:
        self.dataset = dataset
        self.first = first
        self.media = media_columns(dataset)
        self.name = name
        self.names = [f"{name}, from row {first}" for first in range(0, len(dataset), ROWS_OF_A_PIECE)]

    def count(self, shard: int) -> int:
        """Rows of a piece."""
        return min(ROWS_OF_A_PIECE, len(self.dataset) - shard * ROWS_OF_A_PIECE)

    def note(self, shard: int, rows: int) -> None:
        """Nothing: lengths are known."""

    def read(self, shard: int, start: int) -> Iterator[int]:
        """Numbers of rows."""
        first = shard * ROWS_OF_A_PIECE
        return iter(range(first + start, first + self.count(shard)))

    def load(self, token: int) -> dict[str, Any] | BridgeflowError:
        """The row of a number."""
        called = f"row {self.first + token} of {self.name}"
        try:
            return in_words(self.dataset[token], self.media, called)
        except Exception as error:
            return BridgeflowError(f"{called} cannot be read ({cause(error)}).")

    def columns(self, token: int) -> set[str]:
        """As `Shards.columns`: every row has all."""
        return set(self.dataset.column_names)


class ParquetFiles:
    """Parquet files, here or far away: their last bytes say how long they are, and whole row groups are skipped."""

    seekable = False

    def __init__(self, names: Sequence[str], media: frozenset[str] = frozenset()) -> None:
        self.names = names
        self.media = media
        self.lengths = Lengths(digest(*names))
        self._counts: dict[int, int] = {}

    def count(self, shard: int) -> int | None:
        """Rows as the file states them, or as they were found; None where the file cannot be opened."""
        if shard not in self._counts:
            found = self.lengths.get(identity(self.names[shard]))
            if found is not None:
                return found
            import pyarrow.parquet

            try:
                with _opened(self.names[shard]) as stream:
                    self._counts[shard] = pyarrow.parquet.read_metadata(stream).num_rows
            except Exception as error:
                _stop_if_far(self.names[shard], error)
                return None
        return self._counts[shard]

    def note(self, shard: int, rows: int) -> None:
        """Keeps how many rows there are: fewer than the file states, where some of it is damaged."""
        if self.count(shard) != rows:
            self._counts[shard] = rows
            self.lengths.keep(identity(self.names[shard]), rows)

    def read(self, shard: int, start: int) -> Iterator[dict[str, Any] | BridgeflowError]:
        """Rows, a few at a time; one error for each row group that cannot be read."""
        import pyarrow.parquet

        name = self.names[shard]
        try:
            with _opened(name) as stream:
                file = pyarrow.parquet.ParquetFile(stream)
                first = 0
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if start < rows:
                        yield from islice(self._group(file, group, name, first), start, None)
                    start = max(0, start - rows)
                    first += rows
        except BridgeflowError:
            raise
        except Exception as error:
            _stop_if_far(name, error)
            yield BridgeflowError(f"{name} cannot be read ({cause(error)}): fetch it anew; its rows are left out.")

    def _group(self, file: Any, group: int, name: str, first: int) -> Iterator[dict[str, Any] | BridgeflowError]:
        """The rows of a row group, of which `first` is the first one's number in the file, and one error in the end
        where it is damaged."""
        given = 0
        try:
            for batch in file.iter_batches(_READ_AT_ONCE, row_groups=[group]):
                for row in batch.to_pylist():
                    yield in_words(row, self.media, f"row {first + given} of {name}")
                    given += 1
        except Exception as error:
            _stop_if_far(name, error)
            yield BridgeflowError(f"{name}, row group {group} cannot be read from its row {given} on ({cause(error)}).")

    def load(self, token: dict[str, Any] | BridgeflowError) -> dict[str, Any] | BridgeflowError:
        """The row itself."""
        return token

    def columns(self, token: dict[str, Any] | BridgeflowError) -> set[str]:
        """As `Shards.columns`."""
        return columns_of(token)


class IterableParts:
    """An iterable data set, one part for each of its files: only reading shows how long they are."""

    seekable = False

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset = dataset
        self.media = media_columns(dataset)
        self.name = name
        self.parts = int(dataset.num_shards)
        self.names = [f"{name}, part {part}" for part in range(self.parts)]
        self._counts: dict[int, int] = {}

    def count(self, shard: int) -> int | None:
        """Rows, once they were counted."""
        return self._counts.get(shard)

    def note(self, shard: int, rows: int) -> None:
        """Keeps how many rows were found."""
        self._counts[shard] = rows

    def read(self, shard: int, start: int) -> Iterator[dict[str, Any] | BridgeflowError]:
        """Rows, and an error where a file cannot be read on. Raises BridgeflowError where it is the line that broke."""
        part = self.dataset if self.parts == 1 else self.dataset.shard(self.parts, shard)
        name = self.names[shard] if self.parts > 1 else self.name
        try:
            for number, row in enumerate(part.skip(start) if start else part, start):
                yield in_words(row, self.media, f"row {number} of {name}")
        except Exception as error:
            if isinstance(error, OSError):
                raise BridgeflowError(
                    f"a stream of {name} broke off ({cause(error)}): set data.streaming=false."
                ) from error
            yield BridgeflowError(f"{name} cannot be read on ({cause(error)}): what follows in that file is left out.")

    def load(self, token: dict[str, Any] | BridgeflowError) -> dict[str, Any] | BridgeflowError:
        """The row itself."""
        return token

    def columns(self, token: dict[str, Any] | BridgeflowError) -> set[str]:
        """As `Shards.columns`."""
        return columns_of(token)


def parquet_files(builder: Any, split: str) -> list[str]:
    """The files of a split where all of them are Parquet; none otherwise."""
    files = [str(name) for name in (builder.config.data_files or {}).get(split, ())]
    return files if all(name.partition("?")[0].endswith(".parquet") for name in files) else []


def cause(error: BaseException) -> str:
    """The first cause of an error, which libraries wrap in errors of their own, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def identity(name: str) -> str:
    return f"{name}:{os.path.getsize(name)}" if os.path.isfile(name) else name


def _opened(name: str) -> Any:
    if "://" not in name:
        return open(name, "rb")
    import fsspec  # type: ignore[import-untyped]

    return fsspec.open(name, "rb").open()


def _stop_if_far(name: str, error: Exception) -> None:
    """Raises BridgeflowError where it is the line that broke: what follows is not lost then."""
    if "://" in name and isinstance(error, OSError):
        raise BridgeflowError(
            f"{name} broke off ({cause(error)}): see that it can be reached, then go on with --resume."
        ) from error
