"""The rows of a folder: as its metadata lists them, or as its pictures lie there. A few numbers a row are kept."""

from __future__ import annotations

import hashlib
import os
import posixpath
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridgeflow.data.contents import ARRAYS, CAPTIONS, LeftOut, Place, Tally, ending_of, is_picture, places
from bridgeflow.data.files import as_words, check_inside, folders_below, is_regular, joined
from bridgeflow.data.metadata import METADATA, MetadataFile, open_metadata
from bridgeflow.data.rows import NamedRow
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import quoted

COLUMNS = ("image", "text", "depth")
"""Columns that pictures without metadata have, where there are such files."""
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


@dataclass(slots=True)
class _Picture:
    """A picture, its text and its depth, as paths in the folder; '' where there is none."""

    image: str
    text: str = ""
    depth: str = ""


class Pictures(Listing):
    """Pictures, each with the files that belong to it where there are some."""

    def __init__(self, root: Path, pictures: Sequence[_Picture], notes: list[str], follow_links: bool) -> None:
        super().__init__()
        self.root, self.follow_links, self.notes = root, follow_links, notes
        self._names: list[tuple[str, ...]] = []
        for picture in pictures:
            names = (picture.image, picture.text, picture.depth)
            self._names.append(names)
            others = "\0".join(filter(None, names[1:]))
            self._count(picture.image, f"{picture.image}\0{others}\0")
        there = [any(names[place] for names in self._names) for place in range(len(COLUMNS))]
        self.columns = dict.fromkeys(column for column, own in zip(COLUMNS, there, strict=True) if own)

    def row(self, number: int) -> dict[str, Any]:
        """Paths by column. Raises BridgeflowError where a link leads out of the folder."""
        row = {}
        for column, name in zip(COLUMNS, self._names[number], strict=True):
            if name:
                row[column] = self.root / name
                check_inside(row[column], self.root, name, self.follow_links)
        return row


def list_pictures(root: Path, follow_links: bool) -> Pictures:
    """The pictures of a folder, each with the text NAME.txt beside it, and those of image/ with the file in depth/ that
    has the same path but for its ending.

    A link that leads out of the folder is a row that cannot be read. Raises BridgeflowError where a folder cannot be
    listed.
    """
    found: list[_Picture] = []
    left_out, pairs = LeftOut(), _Pairs()
    for place in places(root, follow_links):
        if place.part == "depth":
            pairs.add_depths(place)
        elif place.part == "beside":
            for name in place.listed.files:
                left_out.look_at(place, name)
        else:
            taken = _with_words(place, left_out)
            found += taken
            if place.part == "image":
                pairs.add_pictures(place, taken)
        if not follow_links:
            found += [_Picture(place.path(link)) for link in place.listed.links if _leads_out(root, place.path(link))]
    return Pictures(root, found, [*pairs.join(), *left_out.notes()], follow_links)


class _Pairs:
    """Pictures and depth of the same path below image/ and depth/."""

    def __init__(self) -> None:
        self._pictures: list[tuple[tuple[str, str], _Picture]] = []
        self._depths: dict[tuple[str, str], str] = {}

    def add_pictures(self, place: Place, pictures: Sequence[_Picture]) -> None:
        """Takes up the pictures of a folder in image/."""
        self._pictures += [(_key(place, picture.image), picture) for picture in pictures]

    def add_depths(self, place: Place) -> None:
        """Takes up the files of a folder in depth/."""
        for name in sorted(place.listed.files, key=_is_depth):
            self._depths[_key(place, name)] = place.path(name)

    def join(self) -> list[str]:
        """Gives each picture its depth. Returns a few words on what has no counterpart."""
        pictures, depths = Tally(), Tally()
        used = set()
        for key, picture in self._pictures:
            picture.depth = self._depths.get(key, "")
            used.add(key)
            if not picture.depth:
                pictures.add(picture.image)
        for key in sorted(self._depths.keys() - used):
            if _is_depth(self._depths[key]):
                depths.add(self._depths[key])
        notes = []
        if pictures.count:
            notes.append(f"{pictures.count:,} of the pictures without a file in depth/, such as {pictures.first!r}")
        if depths.count:
            notes.append(f"{depths.count:,} of the files in depth/ without a picture, such as {depths.first!r}")
        return notes


def _key(place: Place, name: str) -> tuple[str, str]:
    """What a picture and its depth have in common."""
    return place.pair, joined(place.below, os.path.splitext(os.path.basename(name))[0])


def _is_depth(name: str) -> bool:
    return is_picture(name) or ending_of(name) in ARRAYS


def _with_words(place: Place, left_out: LeftOut) -> list[_Picture]:
    """The pictures of a folder, each with its text."""
    texts = [file for file in place.listed.files if ending_of(file) in CAPTIONS]
    # The last of a name stays: the first of `CAPTIONS`, in lower case.
    texts.sort(key=lambda file: (-CAPTIONS.index(ending_of(file)), file))
    words = {os.path.splitext(file)[0]: file for file in texts}
    pictures = []
    for file in place.listed.files:
        if is_picture(file):
            text = words.get(os.path.splitext(file)[0])
            pictures.append(_Picture(place.path(file), "" if text is None else place.path(text)))
        else:
            left_out.look_at(place, file)
    return pictures


def _leads_out(root: Path, name: str) -> bool:
    try:
        check_inside(root / name, root, name)
    except BridgeflowError:
        return True
    return False


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
