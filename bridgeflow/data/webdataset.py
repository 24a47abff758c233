"""`webdataset:PATTERN`: samples in tar files, on the disk or far away, more than fit on a disk."""

from __future__ import annotations

import glob
import gzip
import os
import re
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar

from pydantic import Field

from bridgeflow.data.files import folders_below
from bridgeflow.data.holding_out import HELD_OUT_ROWS, Lengths, Shards, digest, rows_to_hold_out_of
from bridgeflow.data.rows import DataSettings, Split, Stream
from bridgeflow.data.shards import Part, ShardStream
from bridgeflow.data.tar import Damage, Member, columns_of, members, row, samples
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress

_KEPT = 4
"""Shards whose table of contents stays in memory."""
_MOST = 1_000_000
_LOOKED_AT = 16
"""Rows whose columns are read first; `ShardStream.look_for` looks further."""

Sample = tuple[str, str, tuple[Member, ...]]
"""The tar, the sample's stem, its members."""


class TarShards:
    """Tar files on this machine: their tables of contents are read, then each sample by itself."""

    seekable = True

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.lengths = Lengths(digest(*(os.path.abspath(name) for name in names)))
        self._tables: OrderedDict[int, list[Sample | BridgeflowError]] = OrderedDict()

    def _table(self, shard: int) -> list[Sample | BridgeflowError]:
        """Every sample of a shard, and in place of what cannot be read, why."""
        if shard in self._tables:
            self._tables.move_to_end(shard)
            return self._tables[shard]
        name = self.names[shard]
        table: list[Sample | BridgeflowError] = []
        try:
            with open(name, "rb") as stream:
                for sample in samples(members(stream, os.fstat(stream.fileno()).st_size)):
                    table.append(_damaged(name, sample) if isinstance(sample, Damage) else (name, *sample))
            self.lengths.keep(_identity(name), len(table))
        except OSError as error:
            table.append(BridgeflowError(f"{name} cannot be read ({error.strerror}): the shard is left out."))
        self._tables[shard] = table
        while len(self._tables) > _KEPT:
            self._tables.popitem(last=False)
        return table

    def count(self, shard: int) -> int:
        """Samples of a shard, from its table of contents where it is not known from before."""
        rows = self.lengths.get(_identity(self.names[shard]))
        return len(self._table(shard)) if rows is None else rows

    def note(self, shard: int, rows: int) -> None:
        """Nothing: tables of contents say."""

    def read(self, shard: int, start: int) -> Iterator[Sample | BridgeflowError]:
        """Where each sample lies, from number `start` on."""
        return islice(self._table(shard), start, None)

    def load(self, token: Sample | BridgeflowError) -> dict[str, Any] | BridgeflowError:
        """The row of a sample."""
        if isinstance(token, BridgeflowError):
            return token
        name, _, own = token
        try:
            with open(name, "rb") as stream:
                return row(name, ((member.name, _contents(stream, member, name)) for member in own))
        except OSError as error:
            return BridgeflowError(f"{name}/{own[0].name} cannot be read ({error.strerror}).")
        except BridgeflowError as error:
            return error

    def columns(self, token: Sample | BridgeflowError) -> set[str]:
        """As `Shards.columns`."""
        if isinstance(token, BridgeflowError):
            return set()
        name, _, own = token
        try:
            with open(name, "rb") as stream:
                return columns_of(own, lambda member: _contents(stream, member, name))
        except (OSError, BridgeflowError):
            return set()


class TarStreams:
    """Tar files that can only be read from the first byte on: far away, or compressed."""

    seekable = False

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.lengths = Lengths(digest(*map(_identity, names)))

    def count(self, shard: int) -> int | None:
        """As it was found when the shard was last read to its end."""
        return self.lengths.get(_identity(self.names[shard]))

    def note(self, shard: int, rows: int) -> None:
        """Keeps the number of samples found."""
        self.lengths.keep(_identity(self.names[shard]), rows)

    def read(self, shard: int, start: int) -> Iterator[Sample | BridgeflowError]:
        """The samples with their bytes. Raises BridgeflowError where the line breaks, for what follows is not lost."""
        name = self.names[shard]
        try:
            with _opened(name) as stream:
                for sample in islice(samples(members(stream)), start, None):
                    yield _damaged(name, sample) if isinstance(sample, Damage) else (name, *sample)
        except (EOFError, gzip.BadGzipFile) as error:
            yield BridgeflowError(f"{name} is cut short or damaged ({error}): fetch it anew; what follows is lost.")
        except Exception as error:
            if isinstance(error, BridgeflowError):
                raise
            if _is_far(name):
                raise BridgeflowError(
                    f"{name} broke off ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}): "
                    "see that it can be reached, then go on with --resume."
                ) from error
            yield BridgeflowError(f"{name} cannot be read ({error}): the rest of the shard is left out.")

    def load(self, token: Sample | BridgeflowError) -> dict[str, Any] | BridgeflowError:
        """The row of a sample."""
        if isinstance(token, BridgeflowError):
            return token
        name, _, own = token
        try:
            return row(name, ((member.name, member.data or b"") for member in own))
        except BridgeflowError as error:
            return error

    def columns(self, token: Sample | BridgeflowError) -> set[str]:
        """As `Shards.columns`."""
        try:
            return set() if isinstance(token, BridgeflowError) else columns_of(token[2], lambda own: own.data or b"")
        except BridgeflowError:
            return set()


def _identity(name: str) -> str:
    """The name of a file that is far away; of one on this machine, its place, size and time of writing."""
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return name
    return f"{os.path.abspath(name)}:{status.st_size}:{status.st_mtime_ns}"


def _contents(stream: IO[bytes], member: Member, name: str) -> bytes:
    stream.seek(member.offset)
    data = stream.read(member.size)
    if len(data) < member.size:
        raise BridgeflowError(f"{name}/{member.name} is cut short: the tar has changed since it was opened.")
    return data


def _damaged(name: str, damage: Damage) -> BridgeflowError:
    return BridgeflowError(f"{name} {damage}: fetch it anew; what follows is lost.")


def _is_far(name: str) -> bool:
    return "://" in name


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """The bytes of a tar, from the first on, unpacked."""
    if name.startswith(("http://", "https://")):
        opened: Any = urllib.request.urlopen(name, timeout=60)
    elif _is_far(name):
        import fsspec  # type: ignore[import-untyped]

        opened = fsspec.open(name, "rb").open()
    else:
        opened = open(name, "rb")  # noqa: SIM115
    with opened as stream:
        if _is_packed(name):
            with gzip.open(stream) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield stream


def _is_packed(name: str) -> bool:
    return name.partition("?")[0].lower().endswith((".gz", ".tgz"))


def expanded(pattern: str) -> list[str]:
    """The names that a pattern with braces means: {000..012} counts, {a,b} lists."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if counted is None and "," not in found[1]:
        raise BridgeflowError(
            f"the braces of {pattern!r} mean nothing: {{000..012}} counts and {{a,b}} lists what stands there."
        )
    if counted is not None:
        first, last, width = int(counted[1]), int(counted[2]), len(counted[1])
        if not 0 <= last - first < _MOST:
            raise BridgeflowError(f"the braces of {pattern!r} count {last - first + 1:,} names: 1 to {_MOST:,} can be.")
        choices = [f"{number:0{width}d}" for number in range(first, last + 1)]
    else:
        choices = found[1].split(",")
    return [name for choice in choices for name in expanded(pattern[: found.start()] + choice + pattern[found.end() :])]


def _found(pattern: str) -> list[str]:
    """The shards that a pattern without braces means; none where nothing is there."""
    if pattern.startswith(("http://", "https://")):
        return [pattern]
    if _is_far(pattern):
        import fsspec

        try:
            files, path = fsspec.core.url_to_fs(pattern)
            return [files.unstrip_protocol(name) for name in sorted(files.glob(path))] if "*" in path else [pattern]
        except Exception as error:
            raise BridgeflowError(f"{pattern!r} cannot be reached ({error}): look at the address.") from error
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        files = next(folders_below(Path(path))).files
        return [str(Path(path) / name) for name in files if name.lower().endswith((".tar", ".tar.gz", ".tgz"))]
    if os.path.isfile(path):
        return [path]
    return sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))


def find_shards(patterns: str | Sequence[str], key: str) -> list[str]:
    """The shards of one or several patterns, each once. Raises BridgeflowError where one matches nothing."""
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    names: list[str] = []
    for pattern in listed:
        found = [name for each in expanded(pattern) for name in _found(each)]
        if not found:
            raise BridgeflowError(
                f"no tar file matches {pattern!r}: set data.{key} to files, a pattern such as 'shards/*.tar' or "
                "'shards/{000..099}.tar', or addresses."
            )
        names += found
    return list(dict.fromkeys(names))


def _shards(names: Sequence[str]) -> Shards:
    if any(_is_far(name) or _is_packed(name) for name in names):
        return TarStreams(names)
    return TarShards(names)


class WebDataset(DataSettings):
    """Samples in tar files, as the webdataset library lays them out: members with one stem are one sample, and endings
    name columns. .jpg, .png and .webp fill `image`, .txt and .caption `text`, .depth.png and .depth.npy `depth`; each
    field of a .json is a column."""

    summary: ClassVar[str] = "webdataset:PATTERN, samples in tar files: 'shards/{000..099}.tar', addresses too"
    to_hold_out: ClassVar[str] = "raise data.held_out_rows, or name tar files with data.held_out"
    shards: str | list[str]
    """Tar files to train on: a pattern with * or {000..099}, a folder, an address, or a list of these."""
    held_out: str | list[str] | None = None
    """Tar files held out; null holds out the first `held_out_rows` of the first shard that has rows with the columns
    the task needs."""
    held_out_rows: int = Field(default=HELD_OUT_ROWS, ge=1)
    """Rows of one shard held out where `held_out` is null. The default is at most a tenth of all, were all shards as
    long as the first; another number is held out as it is."""
    shuffle_buffer: int = Field(default=1000, ge=0)
    """Rows that a process shuffles among each other, after the order of the shards; 0 shuffles nothing."""

    @classmethod
    def at(cls, location: str) -> dict[str, Any]:
        """`webdataset:PATTERN`."""
        return {"shards": location}

    def open(self, split: Split, progress: Progress | None = None) -> Stream:
        """Raises BridgeflowError where a pattern matches nothing, or nothing in the first shards can be read."""
        names = find_shards(self.shards, "shards")
        apart = find_shards(self.held_out, "held_out") if self.held_out is not None else None
        if apart is not None:
            names = [name for name in names if name not in apart]
            if not names:
                raise BridgeflowError(
                    "every tar file of data.shards is held out too, so none is left to train on: change data.held_out."
                )
        if progress is not None:
            progress(0, 1, f"looking into {len(names):,} shards")
        chosen = apart if apart is not None and split == "held_out" else names
        shards = _shards(chosen)
        columns = _columns(shards)
        words = self.shards if isinstance(self.shards, str) else ", ".join(self.shards)
        description = f"a stream of {len(chosen):,} {'shard' if len(chosen) == 1 else 'shards'} in {words}"
        if apart is None:
            count = max(1, rows_to_hold_out_of(shards, self.held_out_rows))
            shards = Part(shards, count, split == "held_out", self.held_out_rows != HELD_OUT_ROWS)
            if split == "held_out":
                description = f"the first rows of {names[0]}"
        elif split == "held_out":
            held_words = self.held_out if isinstance(self.held_out, str) else ", ".join(self.held_out or ())
            description = f"a stream of {len(chosen):,} {'shard' if len(chosen) == 1 else 'shards'} in {held_words}"
        return ShardStream(shards, columns, description, _fingerprint(chosen), self.shuffle_buffer)


def _columns(shards: Shards) -> tuple[str, ...]:
    """The columns of the first rows that can be read."""
    columns: dict[str, None] = {}
    why: BridgeflowError | None = None
    for shard in range(len(shards.names)):
        for token in islice(shards.read(shard, 0), _LOOKED_AT):
            found = shards.load(token)
            if isinstance(found, BridgeflowError):
                why = why or found
            else:
                columns.update(dict.fromkeys(found))
        if columns:
            return tuple(columns)
    reason = f"the first because: {str(why).rstrip('.')}" if why is not None else "they hold no files"
    raise BridgeflowError(
        f"no sample in {len(shards.names):,} tar files such as {shards.names[0]} can be read, {reason}: members "
        "such as NAME.jpg and NAME.txt are expected."
    )


def _fingerprint(names: Sequence[str]) -> str:
    stamps = [os.stat(name) if os.path.isfile(name) else None for name in names]
    told = [f"{own.st_size}:{own.st_mtime_ns}" if own is not None else "" for own in stamps]
    return digest(*(os.path.basename(name) for name in names), *told)
