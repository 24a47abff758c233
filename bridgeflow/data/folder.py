"""`folder:PATH`: pictures of one's own, with what belongs to them (the imagefolder convention)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bridgeflow.data.files import check_inside
from bridgeflow.data.listing import Listing, list_pictures
from bridgeflow.data.metadata import METADATA
from bridgeflow.data.metadata_listing import list_metadata
from bridgeflow.data.rows import DataSettings, Rows, Split
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress

HELD_OUT_FOLDERS = ("held_out", "test", "validation", "val")


class FolderRows:
    """Rows of a folder. `image` and every `NAME_file_name` column hold paths, read when a task pairs the row."""

    def __init__(self, root: Path, listing: Listing, chosen: NDArray[np.int64]) -> None:
        self.root = root
        self.listing = listing
        self.columns = tuple(listing.columns)
        self._chosen = chosen
        name = f"{root} {listing.fingerprint(chosen)}".encode("utf-8", "surrogateescape")
        self.fingerprint = hashlib.sha256(name).hexdigest()[:16]
        self.description = f"{len(chosen):,} rows in {root}"
        if listing.notes:
            self.description += f" ({'; '.join(listing.notes)})"

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row. Raises BridgeflowError, naming it, where its line or what it names cannot be used."""
        if not 0 <= index < len(self._chosen):
            raise IndexError(index)
        return self.listing.row(int(self._chosen[index]))


class Folder(DataSettings):
    """A folder of pictures: alone, or with metadata.jsonl, .csv or .parquet, with NAME.txt beside NAME.jpg, or
    with depth/NAME.png for image/NAME.jpg; in folders of any depth."""

    summary: ClassVar[str] = "folder:PATH, pictures of your own with metadata.jsonl|csv|parquet"
    at_hand: ClassVar[bool] = True
    path: str
    """The folder."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of rows held out, at least one of two, chosen by name; unused where there is a folder for them
    (train/ beside test/, validation/, val/ or held_out/)."""
    follow_links: bool = False
    """Whether links may lead out of the folder, for data sets that are linked together. Only where you made the links:
    one in a folder from elsewhere can point at any file of yours."""

    @classmethod
    def at(cls, location: str) -> dict[str, Any]:
        """`folder:PATH`."""
        return {"path": location}

    def open(self, split: Split, progress: Progress | None = None) -> Rows:
        """Raises BridgeflowError where there is no folder, no picture or a metadata file that cannot be read."""
        root = Path(os.path.expanduser(self.path))
        if not _is_folder(root):
            raise BridgeflowError(f"there is no folder {self.path!r}: give one that holds pictures, as folder:PATH.")
        own = [root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()]
        if (root / "train").is_dir() and own:
            chosen = root / "train" if split == "train" else own[0]
            check_inside(chosen, root, chosen.name, self.follow_links)
            return self._folder_of_a_split(chosen, root)
        listing = self._listing(root)
        # The order is that of the keys, so that what is held out does not depend on how files are listed.
        order = np.argsort(listing.keys, kind="stable")
        keys, count = listing.keys[order], 0
        if self.held_out and len(order) > 1:
            count = min(max(1, round(self.held_out * len(order))), len(order) - 1)
        # Several rows of one picture stay on one side.
        while 0 < count < len(order) and keys[count - 1] == keys[count]:
            count -= 1
        return FolderRows(root, listing, order[count:] if split == "train" else order[:count])

    def _listing(self, root: Path) -> Listing:
        listed = list_metadata(root, self.follow_links)
        listing: Listing = list_pictures(root, self.follow_links) if listed is None else listed
        if not len(listing):
            notes = f" ({'; '.join(listing.notes)})" if listing.notes else ""
            raise BridgeflowError(
                f"the folder {str(root)!r} holds no pictures (.png, .jpg, .webp or others) and no "
                f"{' or '.join(METADATA)}{notes}: put some there, name another folder, "
                'or list files of another kind in metadata.jsonl, as {"NAME_file_name": "file"} for a column NAME.'
            )
        return listing

    def _folder_of_a_split(self, folder: Path, root: Path) -> Rows:
        """Rows of a split's folder; from the metadata of the root where it is there that they are listed."""
        if any((root / name).is_file() for name in METADATA):
            listed = list_metadata(root, self.follow_links, folder.name)
            if listed is not None and len(listed):
                return FolderRows(folder, listed, np.arange(len(listed)))
        listing = self._listing(folder)
        return FolderRows(folder, listing, np.arange(len(listing)))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
