"""The rows that metadata files of a folder list."""

from __future__ import annotations

import os
import posixpath
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from bridgeflow.data.files import as_words, check_inside, folders_below, is_regular, joined
from bridgeflow.data.listing import CONFIRMED, MOST_COLUMNS, Listing
from bridgeflow.data.metadata import METADATA, MetadataFile, open_metadata
from bridgeflow.data.rows import NamedRow
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import quoted


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
    name = joined(folder, value)
    return posixpath.normpath(name) if "./" in name or "//" in name else name
