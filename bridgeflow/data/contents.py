"""What a folder holds: the one rule by which training, `data check` and `run` take files out of it."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bridgeflow.data.files import Listed, check_inside, folders_below, joined

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "TGA", "AVIF", "JPEG2000")
"""Formats of pictures that are read, whatever a file's name says. PIL knows others that are programs (EPS runs in
Ghostscript)."""
CAPTIONS = (".txt", ".text", ".caption")
"""Endings of a text that belongs to the picture beside it; of several, the first."""
ARRAYS = frozenset({".npy", ".npz", ".pfm", ".exr"})
"""Endings of depth that no picture has."""
IMAGE_FOLDERS = ("image", "images")
"""Folders whose pictures are paired with the files of a folder depth/ beside them."""
_OF_PICTURES = frozenset(
    {".heic", ".heif", ".hif", ".avif", ".webp", ".jp2", ".jxl", ".jxr", ".svg", ".psd", ".xcf", ".dds", ".qoi"}
) | {".pcx", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
"""Endings of pictures that not every PIL reads, or none."""


def ending_of(name: str) -> str:
    """The ending of a file's name in lower case, with its dot; '' where there is none."""
    return os.path.splitext(name)[1].lower()


@functools.cache
def picture_endings() -> frozenset[str]:
    """Lower-case endings of the pictures that this PIL reads, of the formats in `FORMATS`."""
    from PIL import Image

    # PIL's reader of JPEG reads MPO too, which has none of its own. PFM holds depth.
    endings = Image.registered_extensions()
    formats = {name for name in FORMATS if name in Image.OPEN or name == "MPO"}
    return frozenset(ending.lower() for ending, name in endings.items() if name in formats) - ARRAYS


def is_picture(name: str) -> bool:
    """Whether a file's name ends as that of a picture which is read."""
    return ending_of(name) in picture_endings()


def is_unread(name: str, read: Collection[str] | None = None) -> bool:
    """Whether a file's name ends as that of a picture which is not read; `read`: endings that are, those that PIL reads
    by default."""
    ending = ending_of(name)
    return ending not in (picture_endings() if read is None else read) and (
        ending in _OF_PICTURES or ending in picture_endings()
    )


@dataclass
class Place:
    """A folder in a searched one. part: '' where its files are looked at as they are; in or below a folder with
    IMAGE/ and depth/, 'image' in IMAGE/, 'depth' in depth/ and 'beside' elsewhere. below: its path in that IMAGE/ or
    depth/. pair: the path of the folder that holds both."""

    listed: Listed
    part: str = ""
    below: str = ""
    pair: str = ""

    def path(self, name: str) -> str:
        """The path of one of its files in the searched folder."""
        return joined(self.listed.place, name)


def places(root: Path, follow_links: bool = False) -> Iterator[Place]:
    """A folder and those below it, each with what its files are.

    Raises BridgeflowError where a folder cannot be listed, and where an image/ or depth/ is a link that leads out.
    """
    parts: dict[str, str] = {}
    pair: str | None = None
    for listed in folders_below(root, follow_links):
        if pair is not None and listed.place.startswith(joined(pair, "")):
            own, _, below = listed.place[len(joined(pair, "")) :].partition("/")
            yield Place(listed, parts.get(own, "beside"), below, pair)
            continue
        pair = None
        names = {*listed.folders, *listed.links}
        image = next((name for name in IMAGE_FOLDERS if name in names), None)
        if image is None or "depth" not in names:
            yield Place(listed)
            continue
        pair, parts = listed.place, {image: "image", "depth": "depth"}
        for name in parts:
            check_inside(root / listed.place / name, root, joined(pair, name), follow_links)
            if name in listed.links:
                listed.links.remove(name)
                listed.folders.append(name)
        yield Place(listed, "beside", "", pair)


@dataclass
class Tally:
    """Counts files, and keeps the first and all their endings."""

    count: int = 0
    first: str = ""
    endings: set[str] = field(default_factory=set)

    def add(self, name: str) -> None:
        """Counts a file, by its path in the folder."""
        self.count += 1
        self.first = self.first or name
        self.endings.add(ending_of(name))


@dataclass
class LeftOut:
    """Pictures that are not taken: of endings that are not read, and beside image/ and depth/."""

    unread: Tally = field(default_factory=Tally)
    beside: Tally = field(default_factory=Tally)

    def look_at(self, place: Place, name: str, read: Collection[str] | None = None) -> None:
        """Counts a file that was not taken where it looks like a picture. read: as in `is_unread`."""
        if is_unread(name, read):
            self.unread.add(place.path(name))
        elif place.part == "beside" and is_picture(name):
            self.beside.add(place.path(name))

    def notes(self) -> list[str]:
        """A few words on each kind of which there are some."""
        notes = []
        if self.unread.count:
            endings = ", ".join(sorted(self.unread.endings))
            notes.append(
                f"{_pictures(self.unread)} left out, such as {self.unread.first!r}: {endings} cannot be read, so save "
                "them as PNG or JPEG"
            )
        if self.beside.count:
            notes.append(
                f"{_pictures(self.beside)} left out, such as {self.beside.first!r}: beside depth/ only those of image/ "
                "are taken"
            )
        return notes


def _pictures(tally: Tally) -> str:
    return f"{tally.count:,} {'picture is' if tally.count == 1 else 'pictures are'}"


def files_for(root: Path, reads: Collection[str], column: str) -> tuple[list[Path], list[str]]:
    """The files in a folder that a modality takes, by name in order, and a few words on what looks like its pictures
    and is not taken. reads: its endings, in lower case; column: the column that holds its items.

    Of a folder with image/ and depth/ the modality of either column takes its own. Links to folders are not entered.
    Raises BridgeflowError where a folder cannot be listed.
    """
    found: list[Path] = []
    left_out, links = LeftOut(), Tally()
    of_pictures = not picture_endings().isdisjoint(reads)
    for place in places(root):
        mine = place.part in ("", column) or column not in ("image", "depth")
        for name in place.listed.files:
            if mine and ending_of(name) in reads:
                found.append(root / place.listed.place / name)
            elif of_pictures and (mine or place.part == "beside"):
                left_out.look_at(place, name, reads)
        for name in place.listed.links:
            links.add(place.path(name))
    notes = left_out.notes()
    if links.count:
        notes.append(f"links to folders are not entered ({links.count:,}, such as {links.first!r})")
    return sorted(found), notes
