"""Files and folders that are whole or absent, whatever happens while they are written.

What is written lies under a temporary name until it is on the disk; then it is renamed, which the file system does at
once. A name that starts with a dot and holds `.part-` or `.gone-` is such a temporary one: a killed process left it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

OWN = re.compile(
    r"\.((\d{6,}|best)(-aside-\d+)?|train|held_out|codecs|source|target|[\w-]+\.(json|jsonl|yaml|safetensors|md|png))"
    r"(\.safetensors|\.json)?\.(part|gone)-\d+"
)
"""Temporary names of what bridgeflow writes; a folder may hold somebody else's."""
PIECE = 1 << 22
"""Bytes that are read at a time."""


def sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def part_of(path: Path) -> Path:
    """The temporary name beside `path` that this process writes it under."""
    return path.with_name(f".{path.name}.part-{os.getpid()}")


def publish(part: Path, path: Path) -> None:
    """Brings a file or a folder with all that is in it to the disk, then to its own name."""
    for written in [*(part.rglob("*") if part.is_dir() else ()), part]:
        sync(written)
    part.replace(path)
    sync(path.parent)


def replace_folder(part: Path, folder: Path) -> None:
    """`publish` for a folder that takes the place of another one, if there is one: at no time is there half of either.
    A process that is killed between the going of the one and the coming of the other leaves none."""
    gone = folder.with_name(f".{folder.name}.gone-{os.getpid()}")
    shutil.rmtree(gone, ignore_errors=True)
    for written in [*part.rglob("*"), part]:
        sync(written)
    with suppress(FileNotFoundError):
        folder.rename(gone)
    part.replace(folder)
    sync(folder.parent)
    shutil.rmtree(gone, ignore_errors=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that its name means the old content or all of the new. Raises OSError as any writing does."""
    part = part_of(path)
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes a folder with those above it, and brings their names to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync(path.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder: first its name, so that no half of it is ever taken for the whole."""
    gone = folder.with_name(f".{folder.name}.gone-{os.getpid()}")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left under temporary names of files and folders that bridgeflow writes. No other
    process may be writing in the folder."""
    for kind in ("part", "gone"):
        for path in folder.glob(f".*.{kind}-*"):
            if not OWN.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """CRC-32 of a file, as eight hexadecimal digits: it finds damage, at about 4 GB/s; it is no proof of origin."""
    value = 0
    buffer = memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            value = zlib.crc32(buffer[:count], value)
    return f"{value:08x}"


def check_writable(folder: Path) -> None:
    """Raises OSError where nothing can be written in a folder, or, where it is not there yet, above it."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=nearest):
        pass
