"""Checkpoints written: whole or not at all, as many as are to stay."""

from __future__ import annotations

import errno
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import bridgeflow
from bridgeflow.assembly import SIDES, Assembly
from bridgeflow.assembly.codec_files import save_codec
from bridgeflow.checkpoints.checkpoint import FORMAT, PAGES, is_whole, list_checkpoints, numbered, order_of, seal_of
from bridgeflow.checkpoints.tensor_file import (
    StoredTensor,
    errno_of,
    reason_of,
    write_state,
    write_tensors,
)
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.registry import requirements
from bridgeflow.runtime import durable


class NotSaved(BridgeflowError):
    """A checkpoint that could not be written. `going_on` is what is said where training goes on without it."""

    def __init__(self, wanted: Path, reason: str, no_space: bool = False) -> None:
        """no_space: whether it is for want of room on the disk, or in a quota."""
        self.no_space = no_space
        saved = list_checkpoints(wanted.parent) if wanted.name.isdigit() else []
        whole = f"; step {int(saved[-1].name):,} is whole" if saved else ""
        after = f"{whole}, and --resume goes on from there" if saved else ""
        super().__init__(
            f"the checkpoint {str(wanted)!r} cannot be written ({reason}): free some space or choose another --output"
            f"{after}."
        )
        self.going_on = (
            f"the checkpoint {str(wanted)!r} cannot be written ({reason}), so training goes on and tries again at the "
            f"next one{whole}."
        )


def save_checkpoint(
    folder: Path,
    step: int,
    assembly: Assembly,
    model: nn.Module,
    average: nn.Module | None,
    trainer: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    keep: int | None = None,
) -> Path:
    """Writes `folder/STEP` under a temporary name, syncs it to disk and renames it, so that it is whole or absent.

    keep: as many of the newest stay, the others are removed once this one is on the disk; or before, where there is no
    space for it otherwise. Raises NotSaved where it cannot be written, and NotFinite where a tensor is not to be kept.
    """
    final = folder / f"{step:06d}"
    # A signal right after a checkpoint asks for the same step again.
    if not is_whole(final):

        def fill(part: Path) -> None:
            (part / "trainer").mkdir(parents=True)
            write_state(model.state_dict(), part / "model.safetensors")
            if average is not None:
                write_state(average.state_dict(), part / "ema.safetensors")
            write_state(trainer, part / "trainer" / "optimizer.safetensors")
            for place, modality in assembly.parts.items():
                if modality.fitted_state() or modality.fitted_facts():
                    save_codec(modality, part / place, {"modality": assembly.recipe.uses[place].name})

        own = {
            "fingerprints": {side: assembly.modality(side).fingerprint() for side in SIDES},
            "order": _next_order(folder.parent),
            **facts,
        }
        try:
            _write(final, step, assembly.recipe, fill, own)
        except NotSaved as error:
            # Whatever else it is would not be fixed by the loss of a good checkpoint.
            if not error.no_space or keep is None or not _make_room(folder, keep):
                raise
            _write(final, step, assembly.recipe, fill, own)
    if keep is not None:
        rotate(folder, keep)
    return final


def _write(final: Path, step: int, recipe: Recipe, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
    """Writes a checkpoint: what `fill` puts into its folder, with recipe.yaml and meta.json."""
    part = durable.part_of(final)
    shutil.rmtree(part, ignore_errors=True)
    try:
        durable.make_folder(final.parent)
        part.mkdir()
        fill(part)
        (part / "recipe.yaml").write_text(recipe.yaml(), encoding="utf-8")
        files = {path.relative_to(part).as_posix(): path for path in sorted(part.rglob("*")) if path.is_file()}
        for path in files.values():
            # safetensors writes for its user alone; a checkpoint is for whoever may read other files here.
            path.chmod((part / "recipe.yaml").stat().st_mode)
        kept = {name: path for name, path in files.items() if name not in PAGES}
        meta: dict[str, Any] = {
            "format": FORMAT,
            "step": step,
            "task": recipe.task_name,
            "recipe": recipe.name,
            "bridgeflow": bridgeflow.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "plugins": plugins_of(recipe),
            "sampling": recipe.sampling.model_dump(mode="json"),
            **facts,
            "files": {name: path.stat().st_size for name, path in kept.items()},
            "checksums": {name: durable.checksum(path) for name, path in kept.items()},
        }
        meta["seal"] = seal_of(meta)
        (part / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
        if final.is_dir() and any(final.iterdir()):
            move_aside(final)
        durable.publish(part, final)
    except (OSError, SafetensorError) as error:
        raise NotSaved(final, reason_of(error), errno_of(error) in (errno.ENOSPC, errno.EDQUOT)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _next_order(run: Path) -> int:
    """One more than the highest `order` of the checkpoints of the runs beside this one: it says which was saved last
    without the clock, which may be set back. Two runs that save at one moment may get the same."""
    highest = 0
    for folder in run.resolve().parent.glob("*/checkpoints"):
        try:
            newest = list_checkpoints(folder)[-1:]
            for path in newest:
                highest = max(highest, order_of(json.loads((path / "meta.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue
    return highest + 1


def save_imported(
    folder: Path,
    recipe: Recipe,
    tensors: Mapping[str, StoredTensor],
    facts: Mapping[str, Any],
    on_bytes: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a checkpoint of step 0 from tensors that are read one by one, see `save_apart`."""
    return save_apart(
        folder, 0, recipe, lambda part: write_tensors(tensors, part / "model.safetensors", on_bytes), facts
    )


def save_apart(folder: Path, step: int, recipe: Recipe, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> Path:
    """Writes a checkpoint of no run, as `folder` itself: under a temporary name beside it, synced, renamed. `fill` puts
    the weights into the folder that it is given. The folder must be absent or empty. Raises NotSaved, and what `fill`
    raises: nothing is left then."""
    folder = folder.resolve()
    _write(folder, step, recipe, fill, facts)
    return folder


def plugins_of(recipe: Recipe) -> list[dict[str, str]]:
    """Every plugin that the recipe needs, with the distribution and version that offer it, see `requirements`.

    A fitted codec is its modality's.
    """
    return requirements.noted(recipe.plugins())


def move_later_aside(folder: Path, after: int) -> list[Path]:
    """Renames the checkpoints of later steps than `after`, so that a run that goes on from there writes its own."""
    return [move_aside(path) for path in numbered(folder) if int(path.name) > after]


def move_aside(path: Path) -> Path:
    """Renames a checkpoint to a name that is none of a run's; the new path."""
    number = 1
    while (aside := path.with_name(f"{path.name}-aside-{number:02d}")).exists():
        number += 1
    path.rename(aside)
    return aside


def rotate(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints. One that cannot be removed stays until the next time: a training
    does not end for it."""
    for path in list_checkpoints(folder)[:-keep]:
        with suppress(OSError):
            durable.remove_folder(path)


def _make_room(folder: Path, keep: int) -> bool:
    """Removes what `rotate` would remove after the next checkpoint, but never the newest; whether there was any."""
    older = list_checkpoints(folder)[: -max(1, keep - 1)]
    for path in older:
        with suppress(OSError):
            durable.remove_folder(path)
    return bool(older)
