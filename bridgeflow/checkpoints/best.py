"""The best checkpoint of a run: `checkpoints/best`, a whole checkpoint beside the newest, which `keep` never removes.

The best is the one with the lowest loss on held-out pairs (val/loss), among those at whose step it was measured; each
carries it in its meta.json as `val_loss`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

from bridgeflow.checkpoints.checkpoint import list_checkpoints
from bridgeflow.checkpoints.writing import move_aside
from bridgeflow.config.keys import TrainingSettings
from bridgeflow.runtime import durable

BEST = "best"


def is_chosen(training: TrainingSettings) -> bool:
    """Whether a run keeps its best checkpoint: what is measured at the end alone has nothing to be compared with."""
    return training.validation > 0 and 0 < training.sample_every < training.steps


def keep_best(path: Path) -> bool:
    """Keeps a checkpoint as the best of its run where its val_loss is below that of the one kept so far; whether it is
    now. Raises OSError where that cannot be written."""
    best = path.parent / BEST
    own, kept = _fact(path, "val_loss"), _fact(best, "val_loss")
    if own is None or (kept is not None and kept <= own):
        return False
    part = durable.part_of(best)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for name in json.loads((path / "meta.json").read_text(encoding="utf-8"))["files"]:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            # A hard link takes no space, and holds the file when `keep` removes the checkpoint that it was made for.
            _link(path / name, part / name)
        # The one file that is written again, when sampling is tuned.
        shutil.copyfile(path / "meta.json", part / "meta.json")
        durable.replace_folder(part, best)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def go_on_from(folder: Path, step: int) -> Path | None:
    """Makes `folder/best` the best of the checkpoints up to the step that a run goes on from. One of a later step,
    which is trained again, is put aside: its new path, else None. Raises OSError where that cannot be written."""
    best = folder / BEST
    later = (_fact(best, "step") or 0) > step
    aside = move_aside(best) if later else None
    for path in list_checkpoints(folder):
        if int(path.name) <= step:
            keep_best(path)
    return aside


def _link(path: Path, to: Path) -> None:
    """The same file under another name: files of a checkpoint never change. A copy where the file system has no such
    links."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def _fact(folder: Path, name: str) -> float | None:
    """A number of a checkpoint's meta.json; None where there is none."""
    try:
        value = json.loads((folder / "meta.json").read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
