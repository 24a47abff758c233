"""The contract of an importer: a file that another program wrote becomes a checkpoint.

An importer looks at names and shapes, says what it sees, and describes each tensor of the checkpoint by its shape and
by how it is read. The engine writes them one by one, so that the file is never held in memory whole.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bridgeflow.checkpoints.tensor_file import StoredTensor
from bridgeflow.checkpoints.writing import save_imported
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import API_VERSION
from bridgeflow.settings import Settings


@dataclass(frozen=True)
class Recognised:
    """What an importer makes of a file.

    title: what the file holds, for a sentence. recipe: of the checkpoint. tensors: its weights by name, as the
    recipe's bridge has them. kept, dropped: parameters by part of the file, in its own words. notes: sentences for
    the person who imports. example: an input for `bridgeflow run`. facts: JSON values for meta.json.
    """

    title: str
    recipe: Recipe
    tensors: Mapping[str, StoredTensor]
    kept: Mapping[str, int]
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    example: str = "INPUT"
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(tensor.size for tensor in self.tensors.values())


class Importer(ABC):
    """Base class of an importer, found under the entry point group `bridgeflow.importers`."""

    api_version: ClassVar[int] = API_VERSION
    """Version of this contract that the plugin was written for."""
    summary: ClassVar[str] = ""
    """One line for `plugins info` and for the command's help."""
    Options: ClassVar[type[Settings]] = Settings
    """Pydantic model of the options; every option has a default and becomes a flag of the command."""

    def __init__(self, options: Settings) -> None:
        self.options = options

    def check(self) -> None:
        """Raises BridgeflowError where an option names what is not there; called before the file is opened."""
        return

    @abstractmethod
    def recognise(self, file: Path) -> Recognised:
        """What a file holds, from the names and shapes in it.

        Raises BridgeflowError, naming the file, where it is damaged, not trusted, or none of the importer's own.
        """


def recognise(importer: Importer, file: Path, folder: Path) -> Recognised:
    """What a file holds, once it is known that `folder` can take it. Nothing is written.

    Raises BridgeflowError where the folder is in use, the file is none, or the disk is too full.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise BridgeflowError(f"the folder {str(folder)!r} is not empty: choose another --output.")
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    if not place.is_dir():
        raise BridgeflowError(f"{str(place)!r} is a file: choose a folder as --output.")
    if not os.access(place, os.W_OK):
        raise BridgeflowError(f"the folder {str(place)!r} may not be written to: choose another --output.")
    if file.is_dir():
        raise BridgeflowError(f"{str(file)!r} is a folder: give the file in it that holds the weights.")
    if not file.is_file():
        raise BridgeflowError(f"there is no file {str(file)!r}: give the path of the file to import.")
    importer.check()
    found = importer.recognise(file)
    free = shutil.disk_usage(place).free
    if free < found.size:
        raise BridgeflowError(
            f"the checkpoint takes {found.size / 1e9:.1f} GB, but {str(place)!r} has {free / 1e9:.1f} GB free: free "
            "some space or choose another --output."
        )
    return found


def write(
    found: Recognised, name: str, file: Path, folder: Path, on_bytes: Callable[[int, int], None] | None = None
) -> Path:
    """Writes the checkpoint of a file that the importer `name` recognised. `folder` is whole or absent afterwards.

    `on_bytes(done, total)` is called after every tensor.
    """
    imported = {
        "importer": name,
        "file": file.name,
        "size": file.stat().st_size,
        "title": found.title,
        "kept": dict(found.kept),
        "dropped": dict(found.dropped),
        **found.facts,
    }
    return save_imported(folder, found.recipe, found.tensors, {"imported": imported}, on_bytes)
