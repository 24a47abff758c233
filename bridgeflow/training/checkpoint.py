"""Checkpoints: folders that `run` can use and training can go on from. No pickle is written or read."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import bridgeflow
from bridgeflow import layers, registry
from bridgeflow import recipe as recipes
from bridgeflow.assembly import SIDES, Assembly, save_codec
from bridgeflow.errors import BridgeflowError
from bridgeflow.recipe import ResolvedRecipe
from bridgeflow.training import requirements

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    meta: Mapping[str, Any]
    passed_over: tuple[str, ...] = ()
    """A sentence for each newer checkpoint of the run that is damaged."""

    @property
    def step(self) -> int:
        """Optimiser steps that the weights have seen."""
        return int(self.meta["step"])

    @property
    def plugins(self) -> list[dict[str, Any]]:
        """The plugins it needs, each with kind, name, distribution and version; none in a checkpoint without a note
        of them."""
        return [dict(note) for note in self.meta.get("plugins", [])]

    def check_plugins(self) -> None:
        """Raises BridgeflowError, one sentence that says what to install, where a plugin that it needs is missing."""
        requirements.check_installed(self.plugins, f"checkpoint {str(self.folder)!r}")

    def notes(self) -> list[str]:
        """A sentence for each plugin that is installed in another version than it was written with."""
        return requirements.differences(self.plugins)

    def recipe(self) -> ResolvedRecipe:
        """The resolved recipe it was trained with. Raises BridgeflowError as `check_plugins`."""
        self.check_plugins()
        text = (self.folder / "recipe.yaml").read_text(encoding="utf-8")
        return recipes.resolve(layers.parse(text, str(self.folder / "recipe.yaml")), str(self.meta["recipe"]))

    def weights(self, averaged: bool = True) -> dict[str, Tensor]:
        """The weights by name: their moving average where there is one and it is wanted."""
        average = self.folder / "ema.safetensors"
        return _tensors(average if averaged and average.is_file() else self.folder / "model.safetensors")

    def codec(self, side: str) -> Path | None:
        """The folder of the fitted codec of a side, where it has one."""
        folder = self.folder / side
        return folder if folder.is_dir() else None


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BridgeflowError(f"{str(path)!r} is damaged or missing ({error}): use another checkpoint.") from error


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, or the newest whole one of a run's folder.

    Raises BridgeflowError when there is none.
    """
    if (folder / "meta.json").is_file():
        return _open(folder)
    inside = folder / "checkpoints"
    newest = list_checkpoints(inside)
    if not newest:
        raise BridgeflowError(
            f"{str(folder)!r} holds no checkpoint: give the folder of a run or of one of its checkpoints."
        )
    passed_over: list[str] = []
    for candidate in reversed(newest):
        try:
            return replace(_open(candidate), passed_over=tuple(passed_over))
        except BridgeflowError as error:
            passed_over.append(str(error))
    raise BridgeflowError(passed_over[0])


def _open(folder: Path) -> Checkpoint:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BridgeflowError(f"checkpoint {str(folder)!r} cannot be read ({error}): use another one.") from error
    if meta.get("format") != FORMAT:
        raise BridgeflowError(
            f"checkpoint {str(folder)!r} has format {meta.get('format')}, but this bridgeflow reads {FORMAT}: "
            f"use the bridgeflow that wrote it ({meta.get('bridgeflow', 'unknown')})."
        )
    for name, size in meta.get("files", {}).items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise BridgeflowError(
                f"checkpoint {str(folder)!r} is damaged ({name} is cut short or missing): use another one."
            )
    return Checkpoint(folder, meta)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders by rising step."""
    if not folder.is_dir():
        return []
    whole = (path for path in folder.iterdir() if path.name.isdigit() and (path / "meta.json").is_file())
    return sorted(whole, key=lambda path: int(path.name))


def save_checkpoint(
    folder: Path,
    step: int,
    assembly: Assembly,
    model: nn.Module,
    average: nn.Module | None,
    trainer: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> Path:
    """Writes `folder/STEP` under a temporary name, syncs it to disk and renames it, so that it is whole or absent."""
    final = folder / f"{step:06d}"
    if (final / "meta.json").is_file():
        return final
    part = folder / f".{step:06d}.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / "trainer").mkdir(parents=True)
        _write(model.state_dict(), part / "model.safetensors")
        if average is not None:
            _write(average.state_dict(), part / "ema.safetensors")
        _write(trainer, part / "trainer" / "optimizer.safetensors")
        (part / "recipe.yaml").write_text(assembly.recipe.yaml(), encoding="utf-8")
        for side in SIDES:
            modality = assembly.modality(side)
            if modality.fitted_state() or modality.fitted_facts():
                save_codec(modality, part / side, {"modality": getattr(assembly.recipe.task, side).name})
        files = {path.relative_to(part).as_posix(): path.stat().st_size for path in part.rglob("*") if path.is_file()}
        meta = {
            "format": FORMAT,
            "step": step,
            "task": assembly.recipe.recipe.task,
            "recipe": assembly.recipe.name,
            "bridgeflow": bridgeflow.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "plugins": plugins_of(assembly.recipe),
            "fingerprints": {side: assembly.modality(side).fingerprint() for side in SIDES},
            "sampling": assembly.recipe.recipe.sampling.model_dump(mode="json"),
            **facts,
            "files": files,
        }
        (part / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
        for path in part.rglob("*"):
            _sync(path)
        _sync(part)
        part.rename(final)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise BridgeflowError(
            f"the checkpoint {str(final)!r} cannot be written ({error}): free some space or choose another --output."
        ) from error
    return final


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor somewhere else, read when it is needed; its shape and type are known before."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    """Gives the tensor, on the CPU, of that shape and type."""

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def write_tensors(
    tensors: Mapping[str, StoredTensor], path: Path, on_bytes: Callable[[int, int], None] | None = None
) -> None:
    """Writes a safetensors file tensor by tensor, so that one of them at a time is in memory.

    The format: the header's length as 8 bytes (little-endian), the header as JSON (type, shape and place of each
    tensor), then the data without gaps; wide types first, so that each lies on a multiple of its own width.
    `on_bytes(done, total)` is called after every tensor.
    """
    ordered = sorted(tensors.items(), key=lambda entry: (-entry[1].dtype.itemsize, entry[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for name, tensor in ordered:
        place = [total, total + tensor.size]
        header[name] = {
            "dtype": SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": place,
        }
        total = place[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in ordered:
            value = tensor.read().detach()
            if value.shape != tensor.shape or value.dtype != tensor.dtype:
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, not {tensor.dtype} {tensor.shape}")
            stream.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            done += tensor.size
            if on_bytes is not None:
                on_bytes(done, total)


def save_imported(
    folder: Path,
    recipe: ResolvedRecipe,
    tensors: Mapping[str, StoredTensor],
    facts: Mapping[str, Any],
    on_bytes: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a checkpoint of step 0 from tensors that are read one by one, as `folder` itself: under a temporary name
    beside it, synced, renamed. The folder must be absent or empty."""
    folder = folder.resolve()
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        write_tensors(tensors, part / "model.safetensors", on_bytes)
        (part / "recipe.yaml").write_text(recipe.yaml(), encoding="utf-8")
        meta = {
            "format": FORMAT,
            "step": 0,
            "task": recipe.recipe.task,
            "recipe": recipe.name,
            "bridgeflow": bridgeflow.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "plugins": plugins_of(recipe),
            "sampling": recipe.recipe.sampling.model_dump(mode="json"),
            **facts,
            "files": {path.name: path.stat().st_size for path in part.iterdir()},
        }
        (part / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
        for path in part.iterdir():
            _sync(path)
        _sync(part)
        part.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise BridgeflowError(
            f"the checkpoint {str(folder)!r} cannot be written ({error}): free some space or choose another --output."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plugins_of(recipe: ResolvedRecipe) -> list[dict[str, str]]:
    """Every plugin that the recipe needs, with the distribution and version that offer it, see `requirements`.

    A fitted codec is its modality's.
    """
    needed = [
        ("task", recipe.recipe.task),
        ("modality", recipe.task.source.name),
        ("modality", recipe.task.target.name),
        ("dataset", recipe.recipe.data["name"]),
        ("network", recipe.recipe.network["name"]),
    ]
    return requirements.noted(dict.fromkeys(registry.find(kind, name) for kind, name in needed))


def set_aside(folder: Path, after: int) -> list[Path]:
    """Renames the checkpoints of later steps than `after`, so that a run that goes on from there writes its own."""
    moved = []
    for path in list_checkpoints(folder):
        if int(path.name) > after:
            number = 1
            while (aside := path.with_name(f"{path.name}-aside-{number:02d}")).exists():
                number += 1
            path.rename(aside)
            moved.append(aside)
    return moved


def rotate(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints and what a killed run left half written."""
    for path in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.part-*"):
        shutil.rmtree(path, ignore_errors=True)


def load_optimizer(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The optimiser's tensors of a checkpoint."""
    return _tensors(checkpoint.folder / "trainer" / "optimizer.safetensors")
