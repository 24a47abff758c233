"""The rows of a folder: as its metadata lists them, or as its pictures lie there. A few numbers a row are kept."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridgeflow.data.contents import ARRAYS, CAPTIONS, LeftOut, Place, Tally, ending_of, is_picture, places
from bridgeflow.data.files import check_inside, joined
from bridgeflow.errors import BridgeflowError

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
