"""Tar files of samples: members with one stem, one after another, are the parts of one sample.

The layout is that of the webdataset library: `0001.jpg`, `0001.txt`, `0001.json`, then `0002.jpg`, ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from bridgeflow.data.contents import CAPTIONS, is_picture, is_unread
from bridgeflow.data.files import Words, as_words, is_hidden
from bridgeflow.data.rows import NamedRow
from bridgeflow.errors import BridgeflowError

BLOCK = 512
TEXTS = tuple(ending[1:] for ending in CAPTIONS)
"""Endings of what becomes the column `text`."""
DEPTHS = ("exr", "pfm")
"""Endings of what becomes the column `depth`, besides NAME.depth.png and NAME.depth.npy."""
_LARGEST = 1 << 30


class Member(NamedTuple):
    """A file in a tar: its name, where its bytes begin, how many they are; and themselves, where they were read."""

    name: str
    offset: int
    size: int
    data: bytes | None = None


class Damage(Exception):
    """A tar that cannot be read any further; the message says where.

    member: the file that is damaged itself; those before it are whole.
    """

    def __init__(self, where: str, member: str = "") -> None:
        super().__init__(where)
        self.member = member


class _Forward:
    """Reads a stream of bytes from the first on, and knows how far it is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.at = 0

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, fewer only at the end."""
        parts = []
        while count > 0:
            part = self.stream.read(min(count, 1 << 20))
            if not part:
                break
            parts.append(part)
            self.at += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, count: int) -> int:
        """Goes past as many bytes; how many there were."""
        left = count
        while left > 0 and (part := self.stream.read(min(left, 1 << 20))):
            self.at += len(part)
            left -= len(part)
        return count - left


def members(stream: IO[bytes], length: int | None = None) -> Iterator[Member]:
    """The files of a tar. With its length in bytes, a tar that can be sought in, only the headers are read; without,
    the contents too.

    Reads the ustar, GNU and pax formats. Raises Damage where the tar is cut short or is none.
    """
    forward = _Forward(stream)
    long_name = ""
    pax: dict[str, str] = {}
    name = ""
    while True:
        start = forward.at
        header = forward.read(BLOCK)
        if not header:
            # A whole tar ends with blocks of zeros.
            raise Damage(f"is cut short after its member {name!r}" if name else "is empty")
        if not any(header):
            return
        size = _size(header, start)
        kind = header[156:157]
        size = (
            int(pax["size"])
            if kind in b"0\0" and pax.get("size", "").isascii() and pax.get("size", "").isdigit()
            else size
        )
        padded = -(-size // BLOCK) * BLOCK
        name = long_name or pax.get("path") or _name(header)
        if kind in (b"L", b"x", b"g"):
            if size > 1 << 20:
                raise Damage(f"has a header of {size:,} bytes at byte {start:,}")
            content = forward.read(padded)[:size]
            if kind == b"L":
                long_name = content.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == b"x":
                pax = _pax(content)
            continue
        is_file = kind in (b"0", b"\0", b"7")
        long_name, pax = "", {}
        data: bytes | None = None
        offset = forward.at
        if length is not None:
            if offset + size > length:
                raise Damage(f"is cut short in its member {name!r}", name)
            stream.seek(offset + padded)
            forward.at = offset + padded
        else:
            if is_file and size > _LARGEST:
                raise Damage(f"has a member {name!r} of {size:,} bytes", name)
            if is_file:
                data = forward.read(padded)
                if len(data) < size:
                    raise Damage(f"is cut short in its member {name!r}", name)
                data = data[:size]
            elif forward.skip(padded) < size:
                raise Damage(f"is cut short in its member {name!r}", name)
        if is_file:
            yield Member(name, offset, size, data)


def _size(header: bytes, start: int) -> int:
    """The size that a header states. Raises Damage where it is no header."""
    if len(header) < BLOCK:
        raise Damage(f"is cut short at byte {start + len(header):,}")
    try:
        stated = int(header[148:156].strip(b" \0") or b"0", 8)
        field = header[124:136]
        size = int.from_bytes(field[1:], "big") if field[0] & 0x80 else int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise Damage(f"is no tar at byte {start:,}") from error
    if stated != sum(header) - sum(header[148:156]) + 8 * 32:
        raise Damage(f"is no tar at byte {start:,}")
    if size < 0:
        raise Damage(f"has a member of {size:,} bytes at byte {start:,}")
    return size


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _pax(content: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    while content:
        length = content.partition(b" ")[0]
        if not length.isdigit() or int(length) <= len(length):
            break
        record = content[len(length) + 1 : int(length)].rstrip(b"\n")
        key, _, value = record.partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        content = content[int(length) :]
    return records


def stem(name: str) -> tuple[str, str] | None:
    """(stem, ending) of a member: the ending begins at the first dot of the file's name; None where it has none, or
    where it or a folder above is hidden."""
    folder, slash, file = name.rpartition("/")
    base, dot, ending = file.partition(".")
    if not dot or not ending or any(map(is_hidden, (file, *(own for own in folder.split("/") if own.strip("."))))):
        return None
    return folder + slash + base, ending.lower()


def column(ending: str) -> str:
    """The column that a member of an ending fills; 'json' where its fields are columns."""
    before, _, last = ending.rpartition(".")
    picture = is_picture(f"x.{last}")
    if before and (picture or last in TEXTS or last in DEPTHS or last in ("npy", "npz")):
        return before
    if picture:
        return "image"
    if last in TEXTS:
        return "text"
    if last in DEPTHS:
        return "depth"
    return ending


def samples(found: Iterator[Member]) -> Iterator[tuple[str, tuple[Member, ...]] | Damage]:
    """(stem, members) of each sample; in the end, where the tar is cut short, how. A sample with a member that is cut
    is lost with it."""
    key: str | None = None
    own: list[Member] = []
    try:
        for member in found:
            parts = stem(member.name)
            if parts is None:
                continue
            if parts[0] != key and own:
                yield str(key), tuple(own)
                own = []
            key = parts[0]
            own.append(member)
            if sum(each.size for each in own) > _LARGEST:
                raise Damage(f"has a sample {key!r} of more than {_LARGEST:,} bytes", member.name)
    except Damage as damage:
        if own and (stem(damage.member) or ("", ""))[0] != key:
            yield str(key), tuple(own)
        yield damage
        return
    if own:
        yield str(key), tuple(own)


def row(place: str, contents: Mapping[str, bytes] | Iterator[tuple[str, bytes]]) -> dict[str, Any]:
    """The row of a sample from (member's name, bytes) of each, called by its tar and stem. Pictures and depth stay
    encoded, as {'path', 'bytes'}.

    Raises BridgeflowError naming the tar and the member.
    """
    columns: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    key = ""
    for name, data in contents.items() if isinstance(contents, Mapping) else contents:
        key, ending = stem(name) or ("", "")
        target, last = column(ending), ending.rpartition(".")[2]
        path = f"{place}/{name}"
        if target == "json":
            fields = _fields(data, path)
            continue
        if target in columns:
            raise BridgeflowError(f"{path}: the sample has two members for the column {target!r}: keep one.")
        columns[target] = _text(data, path) if last in TEXTS or last == "cls" else {"path": path, "bytes": data}
    unread = next((name for name in columns if is_unread(f"x.{name}")), None)
    if unread is not None and "image" not in {**fields, **columns}:
        # Whoever reads it says which file it is, and that it cannot be read.
        columns["image"] = columns.pop(unread)
    return NamedRow({**fields, **columns}, f"{place}/{key}")


def columns_of(own: Sequence[Member], read: Callable[[Member], bytes]) -> set[str]:
    """The columns of a sample, by its members' names; only a .json is read for them. Raises BridgeflowError where that
    cannot be."""
    found: set[str] = set()
    for member in own:
        target = column((stem(member.name) or ("", ""))[1])
        found.update(_fields(read(member), member.name) if target == "json" else [target])
    return found


def _text(data: bytes, path: str) -> str:
    try:
        return Words(data.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        raise BridgeflowError(f"{path} is not text in UTF-8: save it as such.") from error


def _fields(data: bytes, path: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BridgeflowError(f'{path} is not JSON: an object such as {{"text": ...}} is expected.') from error
    if not isinstance(fields, dict):
        raise BridgeflowError(f'{path} is not a JSON object: one such as {{"text": ...}} is expected.')
    return {name: as_words(value) for name, value in fields.items()}
