"""Checkpoints: folders that `run` can use and training can go on from. No pickle is written or read."""

from __future__ import annotations

import json
import stat
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bridgeflow import registry
from bridgeflow.checkpoints.tensor_file import (
    first_not_finite,
)
from bridgeflow.config import layers
from bridgeflow.config import recipe as recipes
from bridgeflow.config.keys import SamplingSettings
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.registry import naming, requirements
from bridgeflow.runtime import durable

FORMAT = 1
SEALED = ("step", "steps", "average_updates", "pairs_seen", "data", "order", "files", "checksums")
"""Facts of meta.json that a run goes on from; they carry a checksum of their own."""
PAGES = ("README.md", "evaluation.json")
"""Files of an exported model for people to read and to write on: nothing is computed from them."""
COUNTS = ("steps", "average_updates", "pairs_seen", "processes", "order")
"""Facts of meta.json that are whole numbers."""
WEIGHTS = ("model.safetensors", "ema.safetensors", "trainer/optimizer.safetensors")
"""Files of tensors that training goes on from."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    meta: Mapping[str, Any]
    passed_over: tuple[str, ...] = ()
    """A sentence for each newer checkpoint of the run that is damaged or not finite."""

    @property
    def step(self) -> int:
        """Optimiser steps that the weights have seen."""
        return int(self.meta["step"])

    @property
    def plugins(self) -> list[dict[str, Any]]:
        """The plugins it needs, each with kind, name, distribution and version; none in a checkpoint without a note
        of them."""
        return requirements.plugins_in(self.meta)

    def check_plugins(self, with_data: bool = True) -> None:
        """Raises BridgeflowError, one sentence that says what to install, where a plugin that it needs is missing.

        with_data: whether the data that it was trained on are needed, too, and what else training alone uses; results
            are made without.
        """
        needed = [note for note in self.plugins if with_data or note["kind"] not in ("dataset", *FOR_TRAINING)]
        requirements.check_installed(needed, f"checkpoint {str(self.folder)!r}")

    def notes(self) -> list[str]:
        """A sentence for each plugin that is installed in another version than it was written with, and for each
        newer checkpoint that is damaged."""
        return [*self.passed_over, *requirements.differences(self.plugins)]

    def recipe(self, with_data: bool = True) -> Recipe:
        """The resolved recipe it was trained with; without its data where they are not needed, and without its
        trackers. Names mean the distributions that it notes. Raises BridgeflowError as `check_plugins`."""
        self.check_plugins(with_data)
        try:
            text = (self.folder / "recipe.yaml").read_text(encoding="utf-8")
        except OSError as error:
            raise _damaged(self.folder, f"recipe.yaml cannot be read: {error.strerror or error}") from error
        homes = {(str(note["kind"]), str(note["name"])): str(note["distribution"]) for note in self.plugins}
        tree = layers.parse(text, str(self.folder / "recipe.yaml"))
        tree = naming.qualified(tree, lambda kind, name: homes.get((kind, name)))
        if not with_data:
            # A model runs without the optimiser that trained it; the default stands for one that is not installed.
            tree = {key: own for key, own in tree.items() if key not in FOR_TRAINING or _is_installed(key, own)}
        return recipes.resolve(tree, str(self.meta["recipe"]), homes, with_data, with_trackers=False)

    def sampling(self) -> SamplingSettings:
        """The defaults of sampling: those of its recipe, or what they were set to since. Raises BridgeflowError where
        they do not fit."""
        try:
            return SamplingSettings.model_validate(self.meta["sampling"])
        except (KeyError, ValidationError) as error:
            raise _damaged(self.folder, "the sampling of meta.json does not fit") from error

    @property
    def tuned(self) -> dict[str, Any]:
        """How its defaults of sampling were found, where they were tuned."""
        note = self.meta.get("tuned")
        return dict(note) if isinstance(note, dict) else {}

    def with_sampling(self, sampling: SamplingSettings, tuned: Mapping[str, Any] | None) -> Checkpoint:
        """The checkpoint with other defaults of sampling, written to its meta.json at once or not at all.

        tuned: how they were found, kept beside them; None where they were not. Raises BridgeflowError where it cannot
        be written.
        """
        meta = {key: value for key, value in self.meta.items() if key != "tuned"}
        meta["sampling"] = sampling.model_dump(mode="json")
        if tuned is not None:
            meta["tuned"] = dict(tuned)
        try:
            durable.write_whole(self.folder / "meta.json", json.dumps(meta, indent=1, ensure_ascii=False))
        except FileNotFoundError as error:
            raise BridgeflowError(
                f"checkpoint {str(self.folder)!r} is gone, as training removes older ones: tune the run again."
            ) from error
        except OSError as error:
            raise BridgeflowError(
                f"the sampling of checkpoint {str(self.folder)!r} cannot be written ({error.strerror or error}): make "
                "its folder writable or copy it elsewhere."
            ) from error
        return replace(self, meta=meta)

    def weights(self, averaged: bool = True) -> dict[str, Tensor]:
        """The weights by name: their moving average where there is one and it is wanted."""
        average = self.folder / "ema.safetensors"
        return _tensors(average if averaged and average.is_file() else self.folder / "model.safetensors")

    def codec(self, place: str) -> Path | None:
        """The folder of the fitted codec of a modality, by the key of its section, where it has one."""
        folder = self.folder / place
        return folder if folder.is_dir() else None

    def codecs(self, recipe: Recipe) -> dict[str, Path]:
        """The folders of all that it has of a recipe's."""
        return {place: folder for place in recipe.uses if (folder := self.codec(place)) is not None}


FORMER_NAMES = {"tower.": "encoding_loss.tower.", "logit_scale": "encoding_loss.logit_scale"}
"""What names of weights began with before, and begin with now."""


FOR_TRAINING = ("coupling", "objective", "optimizer")
"""Kinds of plugins, and the sections of a recipe that name one, which no result depends on once a model is trained."""


def _is_installed(kind: str, section: Any) -> bool:
    name = section.get("name") if isinstance(section, Mapping) else None
    return not isinstance(name, str) or bool(registry.offering(kind, name))


def current_name(name: str) -> str:
    """The name that a weight has now, of one that was written before."""
    former = next((own for own in FORMER_NAMES if name.startswith(own)), None)
    return name if former is None else FORMER_NAMES[former] + name.removeprefix(former)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return {current_name(name): tensor for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise BridgeflowError(f"{str(path)!r} is damaged or missing ({error}): use another checkpoint.") from error


def open_checkpoint(folder: Path, thorough: bool = False) -> Checkpoint:
    """The checkpoint in a folder, or the newest whole one of a run's folder.

    The files that results are made with are read and compared with their checksums; `thorough` compares all, and looks
    for numbers that are not finite, as going on with training needs. Raises BridgeflowError when there is none.
    """
    if (folder / "meta.json").is_file():
        return _open(folder, thorough)
    newest = numbered(folder / "checkpoints")
    if not newest:
        raise BridgeflowError(
            f"{str(folder)!r} holds no checkpoint: give the folder of a run or of one of its checkpoints."
        )
    faults: list[BridgeflowError] = []
    for candidate in reversed(newest):
        try:
            found = _open(candidate, thorough)
        except BridgeflowError as error:
            faults.append(error)
            continue
        told = (f"{str(error).rpartition(':')[0]}: step {found.step:,} is used in its stead." for error in faults)
        return replace(found, passed_over=tuple(told))
    raise faults[0]


def _open(folder: Path, thorough: bool) -> Checkpoint:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        version, files, checksums = meta.get("format"), meta.get("files", {}), meta.get("checksums", {})
        if version == FORMAT:
            _check_meta(meta, files, checksums)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise BridgeflowError(f"checkpoint {str(folder)!r} cannot be read ({error}): use another one.") from error
    if version != FORMAT:
        raise BridgeflowError(
            f"checkpoint {str(folder)!r} has format {version}, but this bridgeflow reads {FORMAT}: "
            f"use the bridgeflow that wrote it ({meta.get('bridgeflow', 'unknown')})."
        )
    if "seal" in meta and meta["seal"] != seal_of(meta):
        raise _damaged(folder, "meta.json has changed since it was written")
    files, checksums = ({name: own for name, own in of.items() if name not in PAGES} for of in (files, checksums))
    for name, size in files.items():
        # Asked once: training may remove the oldest checkpoint meanwhile.
        try:
            found = (folder / name).stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != size:
            raise _damaged(folder, f"{name} is cut short or missing")
    for name, written in checksums.items():
        if thorough or _makes_results(name, files):
            try:
                changed = durable.checksum(folder / name) != written
            except OSError as error:
                raise _damaged(folder, f"{name} cannot be read: {error.strerror or error}") from error
            if changed:
                raise _damaged(folder, f"{name} has changed since it was written")
    if thorough:
        _check_finite(folder, [name for name in WEIGHTS if name in files])
    return Checkpoint(folder, meta)


def _check_finite(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        try:
            tensor = first_not_finite(folder / name)
        except (OSError, SafetensorError) as error:
            raise _damaged(folder, f"{name} cannot be read: {error}") from error
        if tensor is not None:
            raise _damaged(folder, f"the tensor {tensor!r} of {name} holds numbers that are not finite")


def _check_meta(meta: Mapping[str, Any], files: Any, checksums: Any) -> None:
    """Raises TypeError where a fact is no such value as a checkpoint's."""
    notes = meta.get("plugins", [])
    mappings = [files, checksums, *(meta.get(name, {}) for name in ("sampling", "data", "tuned", "exported")), *notes]
    texts = [
        meta["task"],
        meta["recipe"],
        *(note.get(key) for note in notes for key in ("kind", "name", "distribution")),
    ]
    needed = ("average_updates", "pairs_seen") if any(str(name).startswith("trainer/") for name in files) else ()
    counts = [meta["step"], *(meta[name] for name in COUNTS if name in meta or name in needed)]
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in (*files, *checksums)):
        raise TypeError("meta.json names a file outside of the checkpoint")
    if not all(isinstance(own, dict) for own in mappings):
        raise TypeError("meta.json holds other values than a checkpoint's")
    if not all(isinstance(own, str) for own in texts):
        raise TypeError("meta.json lacks the name of a task, a recipe or a plugin")
    if not all(isinstance(own, int) and not isinstance(own, bool) for own in counts):
        raise TypeError("meta.json counts in other values than whole numbers")


def _damaged(folder: Path, why: str) -> BridgeflowError:
    return BridgeflowError(f"checkpoint {str(folder)!r} is damaged ({why}): use another one.")


def _makes_results(name: str, files: Mapping[str, int]) -> bool:
    """Whether results depend on a file: all but the state of training, and the weights that have an average."""
    return not name.startswith("trainer/") and not (name == "model.safetensors" and "ema.safetensors" in files)


def seal_of(meta: Mapping[str, Any]) -> str:
    sealed = {name: meta[name] for name in SEALED if name in meta}
    return f"{zlib.crc32(json.dumps(sealed, sort_keys=True).encode()):08x}"


def numbered(folder: Path) -> list[Path]:
    """The folders of checkpoints by rising step, whole or not."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdigit() and p.is_dir()), key=lambda path: int(path.name))


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders by rising step."""
    return [path for path in numbered(folder) if (path / "meta.json").is_file()]


def is_whole(folder: Path) -> bool:
    try:
        return (folder / "meta.json").is_file() and _open(folder, thorough=False).step == int(folder.name)
    except BridgeflowError:
        return False


def order_of(meta: Any) -> int:
    """The place of a checkpoint among those of the runs beside it, in the order of saving; 0 where it has none."""
    order = meta.get("order", 0) if isinstance(meta, dict) else 0
    return order if isinstance(order, int) else 0


def load_optimizer(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The optimiser's tensors of a checkpoint."""
    return _tensors(checkpoint.folder / "trainer" / "optimizer.safetensors")
