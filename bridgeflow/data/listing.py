"""The rows of a folder: as its metadata lists them, or as its pictures lie there. A few numbers a row are kept."""

from __future__ import annotations

import hashlib
import os
import posixpath
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridgeflow.data.files import Listed, as_words, check_inside, folders_below, is_regular
from bridgeflow.data.metadata import METADATA, MetadataFile, open_metadata
from bridgeflow.data.rows import NamedRow
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import quoted

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
CONFIRMED = 16
"""Files that seem not to be there of which it is made sure."""
MOST_COLUMNS = 1000
"""Most columns of a folder's rows: more are made by names that are values."""


class Listing:
    """Rows by number. columns: their names. notes: what is wrong with some rows, a few words each."""

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}
        self.notes: list[str] = []
        self._keys = array("Q")
        self._content = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """(N,): where each row stands in the order, the same for rows of one picture."""
        return np.array(self._keys, dtype=np.uint64)

    def fingerprint(self, chosen: NDArray[np.int64]) -> str:
        """16 hexadecimal digits that change with what the rows say and which of them are chosen."""
        digest = self._content.copy()
        digest.update(chosen.tobytes())
        return digest.hexdigest()[:16]

    def row(self, number: int) -> dict[str, Any]:
        """The row. Raises BridgeflowError, naming it, where it cannot be used."""
        raise NotImplementedError

    def _count(self, key: str, content: str) -> None:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        self._keys.append(int.from_bytes(digest[:8], "big"))
        self._content.update(content.encode("utf-8", "surrogatepass"))

    def __getstate__(self) -> dict[str, Any]:
        # Workers of a data loader only read rows.
        return {**self.__dict__, "_content": None}


# -- pictures ------------------------------------------------------------------------------------------------


class Pictures(Listing):
    """Pictures, each with the file that belongs to it where there is one."""

    def __init__(self, root: Path, second: str, pairs: Iterable[tuple[str, str]], follow_links: bool) -> None:
        super().__init__()
        self.root, self.second, self.follow_links = root, second, follow_links
        self._pairs = list(pairs)
        for image, other in self._pairs:
            self._count(image, f"{image}\0{other}\0")
        self.columns = dict.fromkeys(["image"] if self._pairs else [])
        if any(other for _, other in self._pairs):
            self.columns[second] = None

    def row(self, number: int) -> dict[str, Any]:
        """Paths by column. Raises BridgeflowError where a link leads out of the folder."""
        row = {}
        for column, name in zip(("image", self.second), self._pairs[number], strict=True):
            if name:
                row[column] = self.root / name
                check_inside(row[column], self.root, name, self.follow_links)
        return row


def list_pictures(root: Path, follow_links: bool) -> Pictures:
    """The pictures of a folder with NAME.txt beside NAME.jpg, or those of image/ with depth/NAME.png.

    A link that leads out of the folder is a row that cannot be read. Raises BridgeflowError where a folder cannot be
    listed.
    """
    for name in ("image", "images"):
        if (root / name).is_dir() and (root / "depth").is_dir():
            for folder in (name, "depth"):
                check_inside(root / folder, root, folder, follow_links)
            depths = {os.path.splitext(file)[0]: f"depth/{file}" for file in _own_files(root / "depth")}
            pictures = [file for file in _own_files(root / name) if _is_picture(file)]
            pairs = ((f"{name}/{file}", depths.get(os.path.splitext(file)[0], "")) for file in pictures)
            return Pictures(root, "depth", pairs, follow_links)
    found: list[tuple[str, str]] = []
    for listed in folders_below(root, follow_links):
        found += _with_words(listed)
        found += [(_join(listed.place, link), "") for link in listed.links if _leads_out(root, listed.place, link)]
    return Pictures(root, "text", found, follow_links)


def _own_files(folder: Path) -> list[str]:
    return next(folders_below(folder)).files


def _with_words(listed: Listed) -> list[tuple[str, str]]:
    words = {file for file in listed.files if file.endswith(".txt")}
    pairs = []
    for file in listed.files:
        if _is_picture(file):
            text = os.path.splitext(file)[0] + ".txt"
            pairs.append((_join(listed.place, file), _join(listed.place, text) if text in words else ""))
    return pairs


def _leads_out(root: Path, place: str, name: str) -> bool:
    try:
        check_inside(root / place / name, root, name)
    except BridgeflowError:
        return True
    return False


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURES


def _join(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


# -- metadata ------------------------------------------------------------------------------------------------


class Metadata(Listing):
    """Rows of metadata files, read from the file again when they are asked for."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        super().__init__()
        self.root, self.follow_links = root, follow_links
        self._files: list[MetadataFile] = []
        self._first: list[int] = []
        self._shapes: dict[tuple[str | bool, ...], tuple[str, ...]] = {}
        self._places = array("q")

    def add(self, path: Path, missing: _Missing, below: str) -> tuple[int, BridgeflowError | None]:
        """Takes up the rows of a file, those alone that name a file in the folder `below` where it is not empty.

        Returns how many cannot be used, and why the first of them cannot.
        """
        file = open_metadata(path)
        folder = path.parent.relative_to(self.root).as_posix()
        folder = "" if folder == "." else folder
        self._files.append(file)
        self._first.append(len(self))
        self._content.update(f"{folder}\0".encode("utf-8", "surrogatepass"))
        within, broken, why = f"{below}/", 0, None
        for number, (place, row) in enumerate(file.rows(), 1):
            if isinstance(row, BridgeflowError):
                broken, why = broken + 1, why or row
                self._count(f"{path.name} {place[0]}", str(row))
            else:
                named = self._files_of(row, path)
                names = [_in_folder(folder, row[column]) for column in named if _is_name(row[column])]
                if below and not any(name.startswith(within) for name in names):
                    continue
                for name in names:
                    missing.look_for(name)
                self._count(names[0] if names else str(next(iter(row.values()), "")), repr(row))
            self._places.extend((*place, number))
        return broken, why

    def _files_of(self, row: dict[str, Any], path: Path) -> tuple[str, ...]:
        """The columns of a row that name files, that of the picture first; takes note of all its columns."""
        shape = (*row, *(value is None or value == "" for value in row.values()))
        if shape not in self._shapes:
            self.columns.update({_column_of(c): None for c, value in row.items() if value is not None and value != ""})
            if max(len(self.columns), len(self._shapes)) > MOST_COLUMNS:
                raise BridgeflowError(
                    f"the rows of {path} have more than {MOST_COLUMNS:,} columns, or as many sets of them: every row "
                    "is expected to have the same few keys."
                )
            self._shapes[shape] = tuple(sorted(filter(_is_file_column, row), key=lambda column: column != "file_name"))
        return self._shapes[shape]

    def row(self, number: int) -> dict[str, Any]:
        """The row with paths for the files that it names. Raises BridgeflowError where it cannot be used."""
        which = int(np.searchsorted(self._first, number, side="right")) - 1
        file = self._files[which]
        first, end, line, count = self._places[4 * number : 4 * number + 4]
        values = file.row((first, end, line))
        where = f"{file.path}, row {count}: "
        row: dict[str, Any] = {}
        # Files come last, file_name behind all others: no other key can stand in their place.
        for column in sorted(values, key=lambda name: (_is_file_column(name), name == "file_name")):
            value = values[column]
            if value is None or value == "":
                if column == "file_name":
                    raise BridgeflowError(f"{where}the file_name is empty: every row names its file.")
            elif _is_file_column(column):
                row[_column_of(column)] = self._inside(value, file.path, where)
            else:
                _check_value(value, column, where)
                row[column] = as_words(value)
        # A row without a file is found by its place in the list alone.
        named = any(isinstance(value, Path) for value in row.values())
        return row if named else NamedRow(row, where.removesuffix(": "))

    def _inside(self, value: Any, metadata: Path, where: str) -> Path:
        if not isinstance(value, str) or "\0" in value:
            raise BridgeflowError(f"{where}{quoted(value)} is no file name: a path in the folder is expected.")
        path = metadata.parent / value
        try:
            check_inside(path, self.root, value, self.follow_links)
        except BridgeflowError as error:
            raise BridgeflowError(f"{where}{error}") from error
        return path


def list_metadata(root: Path, follow_links: bool, below: str = "") -> Metadata | None:
    """The rows of every metadata file in a folder; None where there is no such file. `below`: only rows that name a
    file in that folder of it.

    Raises BridgeflowError where a file cannot be read or has no row that can be used.
    """
    found = sorted(
        root / listed.place / name
        for listed in folders_below(root, follow_links)
        for name in METADATA
        if name in listed.files
    )
    if not found:
        return None
    listing, missing = Metadata(root, follow_links), _Missing(root)
    broken, why = 0, None
    for path in found:
        check_inside(path, root, str(path), follow_links)
        more, first = listing.add(path, missing, below)
        broken, why = broken + more, why or first
    if not len(listing) and not below:
        raise BridgeflowError(f"{found[0]} lists nothing: a row with a file_name is expected for each picture.")
    if why is not None and broken == len(listing):
        raise why
    if broken:
        listing.notes.append(f"{broken:,} of the rows listed cannot be read")
    listing.notes += missing.note()
    return listing


class _Missing:
    """Counts files that are not there without a look at each: their folders are listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        self._seen: list[str] = []
        self._folders: dict[str, set[str]] = {}

    def look_for(self, name: str) -> None:
        """Counts a file, by its path in the folder, that is not there. What leads out is refused when it is read."""
        if name.startswith(("/", "../")):
            return
        folder, _, own = name.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._names(folder)
        if own not in self._folders[folder]:
            self.count += 1
            if len(self._seen) < CONFIRMED:
                self._seen.append(name)

    def note(self) -> list[str]:
        """A few words on how many are missing; none where a name that was not listed leads to a file after all (by
        another case, or over a link)."""
        if not self.count or any(is_regular(self.root / name) for name in self._seen):
            return []
        return [f"{self.count:,} of the files listed are not there, such as {self._seen[0]!r}"]

    def _names(self, folder: str) -> set[str]:
        try:
            return set(os.listdir(self.root / folder))
        except (OSError, ValueError):
            return set()


def _is_file_column(column: str) -> bool:
    return column == "file_name" or column.endswith("_file_name")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _column_of(column: str) -> str:
    return "image" if column == "file_name" else column.removesuffix("_file_name")


def _in_folder(folder: str, value: str) -> str:
    """The path in the whole folder of a file that metadata in `folder` names."""
    name = _join(folder, value)
    return posixpath.normpath(name) if "./" in name or "//" in name else name


def _check_value(value: Any, column: str, where: str) -> None:
    """Raises BridgeflowError where a plain value, or one inside it, is the path of a file: whoever reads a picture or a
    text from the value would open it, wherever it lies."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += [own for own in part if isinstance(own, str | dict | list)]
        elif isinstance(part, str) and len(part) < 4096 and ("." in part or "/" in part or part.startswith("~")):
            try:
                path = os.path.expanduser(part)
                leads = os.path.exists(path) and not os.path.isdir(path)
            # No name of a file: words.
            except ValueError:
                leads = False
            if leads:
                raise BridgeflowError(
                    f"{where}the column {quoted(column)} holds {quoted(part)}, which is the path of a file: call the "
                    f"column {quoted(f'{column}_file_name')} to mean a file in the folder."
                )
