"""Files that strangers made: what is no plain file, leads away or is too large is refused before it is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import bounded, quoted


class Words(str):
    """Text that came with data, maybe from a stranger: words, and never the path of a file on this machine."""

    __slots__ = ()


def as_words(value: Any) -> Any:
    """The value with every string in it, also in lists and mappings, as `Words`."""
    if isinstance(value, str):
        return Words(value)
    if isinstance(value, dict):
        return {key: as_words(own) for key, own in value.items()}
    if isinstance(value, list):
        return [as_words(own) for own in value]
    return value


def path_of(value: str | Path, what: str) -> Path:
    """The path that a value is. A ~ means the home folder in a str, which a person gave, and never in a Path, which may
    come from data. Raises BridgeflowError for `Words`; `what` names what was expected, as 'a picture'."""
    if isinstance(value, Words):
        raise BridgeflowError(
            f"the data hold the words {bounded(value, 60)!r} where {what} was expected: store the file itself in the "
            "data, or name it in a column of a folder's metadata that ends in _file_name."
        )
    return Path(value) if isinstance(value, Path) else Path(value).expanduser()


def check_words(value: Any, endings: Collection[str], column: str) -> None:
    """Raises BridgeflowError where `Words` in a column's value name a file with one of these endings: whoever reads the
    value might open it, wherever it lies."""
    if isinstance(value, Mapping):
        value = [value.get("path")] if value.get("bytes") is None else []
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, Words) and part.lower().endswith(tuple(endings)):
            raise BridgeflowError(
                f"the column {quoted(column)} holds {quoted(str(part))}, a file's name: call the column "
                f"{quoted(f'{column}_file_name')} in a folder's metadata, or store the file itself in the data."
            )


def is_regular(path: str | Path) -> bool:
    """Whether there is a plain file at `path`, links followed; False for any name that the system refuses."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_file(path: Path, what: str, most: int | None = None) -> int:
    """The size of a plain file in bytes.

    Raises BridgeflowError where it is missing, a folder, a pipe or a device (reading one may never end), or has more
    than `most` bytes. `what` names the kind of file that was expected, such as 'a picture'.
    """
    name = str(path)
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise BridgeflowError(f"{name} does not exist: give the path of {what}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BridgeflowError(f"{name} cannot be read ({reason}): give the path of {what}.") from error
    if stat.S_ISDIR(found.st_mode):
        raise BridgeflowError(f"{name} is a folder where {what} was expected: give the path of a file.")
    if not stat.S_ISREG(found.st_mode):
        raise BridgeflowError(f"{name} is a pipe or a device where {what} was expected: give the path of a plain file.")
    if most is not None and found.st_size > most:
        raise BridgeflowError(f"{name} has {found.st_size:,} bytes, more than the {most:,} that {what} may have.")
    return found.st_size


def check_inside(path: Path, root: Path, name: str, follow_links: bool = False) -> None:
    """Raises BridgeflowError where `path`, which messages call `name`, leads out of the folder `root`: as it is
    written, or by a link that is not to be followed."""
    if not _is_below(os.path.abspath(path), os.path.abspath(root)):
        raise BridgeflowError(f"{name!r} lies outside the folder {str(root)!r}: copy it in.")
    # What is not there leads nowhere, and to look at every folder above it takes long.
    if follow_links or ("\0" not in name and not os.path.lexists(path)):
        return
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError) as error:
        raise BridgeflowError(f"{name!r} is no file name ({error}): give a path in the folder.") from error
    if not _is_below(real, os.path.realpath(root)):
        raise BridgeflowError(
            f"{name!r} leads by a link to {real!r}, which lies outside the folder {str(root)!r}: copy it in, or allow "
            "links with data.follow_links=true."
        )


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is skipped: operating systems, editors and archivers name theirs so (.DS_Store,
    ._photo.jpg, .ipynb_checkpoints, __MACOSX)."""
    return name.startswith((".", "__"))


@dataclass
class Listed:
    """A folder's own files, by name in order, the folders in it that are entered next, and its links to folders that
    are not. `place` is its path in the folder that was searched, '' for that itself."""

    place: str
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def folders_below(root: Path, follow_links: bool = False) -> Iterator[Listed]:
    """What lies in a folder and below it, but for hidden names.

    Links to folders are entered with `follow_links` only, and each folder once, so that a loop of links ends. Whoever
    changes `folders` before the next step changes what is entered.
    """
    seen = {_identity(root)}
    waiting = [""]
    while waiting:
        listed = Listed(waiting.pop())
        try:
            with os.scandir(root / listed.place) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if not _is_folder(entry):
                        listed.files.append(entry.name)
                    elif not entry.is_symlink():
                        listed.folders.append(entry.name)
                        seen.add(_identity(entry) if follow_links else (0, 0))
                    elif follow_links and (identity := _identity(entry)) not in seen:
                        listed.folders.append(entry.name)
                        seen.add(identity)
                    else:
                        listed.links.append(entry.name)
        except OSError as error:
            raise BridgeflowError(
                f"the folder {str(root / listed.place)!r} cannot be read ({error.strerror}): fix its rights."
            ) from error
        listed.files.sort()
        yield listed
        waiting += [joined(listed.place, name) for name in sorted(listed.folders, reverse=True)]


def joined(place: str, name: str) -> str:
    """The path of a name in a folder of a searched folder, with / between them."""
    return f"{place}/{name}" if place else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # A loop of links is no folder, and whoever reads it gets an error.
    except OSError:
        return False


def _identity(path: Path | os.DirEntry[str]) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
