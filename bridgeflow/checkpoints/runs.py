"""The folders of runs: a new one, the latest of a task, the one to go on with."""

from __future__ import annotations

import json
from pathlib import Path

from bridgeflow.checkpoints.checkpoint import Checkpoint, list_checkpoints, numbered, open_checkpoint, order_of
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.registry import requirements
from bridgeflow.registry.naming import plain

RUNS = Path("runs")


def check_output(output: str | None) -> None:
    """Raises UsageError when a new run cannot go to `output`: before anything slow is done for it."""
    if output is not None:
        folder = Path(output)
        # What a run that was killed before its first checkpoint has left there is none to go on with.
        if list_checkpoints(folder / "checkpoints"):
            raise UsageError(
                f"{output!r} holds a run already: add --resume to go on with it, or choose another --output."
            )
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--output {output!r} is a file: a run needs a folder.")


def new_folder(recipe: Recipe, output: str | None) -> Path:
    """A folder for a new run: `output`, or runs/TASK-RECIPE-NN with the next free number."""
    check_output(output)
    if output is not None:
        folder = Path(output)
    else:
        is_file = recipe.name.endswith((".yaml", ".yml"))
        stem = Path(recipe.name).stem if is_file else plain(recipe.name).replace("/", "-")
        number = 1
        while (RUNS / f"{stem}-{number:02d}").exists():
            number += 1
        folder = RUNS / f"{stem}-{number:02d}"
    try:
        folder.mkdir(parents=True, exist_ok=output is not None)
    except FileExistsError:
        # Another run began at the same moment.
        return new_folder(recipe, output)
    except OSError as error:
        raise not_writable(folder, error) from error
    return folder


def not_writable(folder: Path, error: OSError) -> BridgeflowError:
    return BridgeflowError(
        f"nothing can be written to the folder {str(folder)!r} ({error.strerror or error}): choose another --output."
    )


def latest_run(task: str, runs: Path = RUNS) -> Path | None:
    """The run of a task under `runs` whose newest checkpoint was written last, or None.

    The order of writing is noted in the checkpoints; the clock, which may have been set back, says no more than which
    of two older ones is meant.
    """
    requirements.check_unambiguous("task", task)
    found: list[tuple[int, float, Path]] = []
    for meta in runs.glob("*/checkpoints/*/meta.json"):
        try:
            facts = json.loads(meta.read_text(encoding="utf-8"))
            if meta.parent.name.isdigit() and requirements.is_of_task(facts, task):
                found.append((order_of(facts), meta.stat().st_mtime, meta.parents[2]))
        except (OSError, ValueError, AttributeError):
            continue
    return max(found)[2] if found else None


def find_resumable(task: str, output: str | None) -> Checkpoint:
    """The checkpoint to go on from: of the run in `output`, or of the task's latest run."""
    folder = Path(output) if output is not None else latest_run(task)
    if folder is None:
        raise UsageError(f"there is no run of task {task!r} under {str(RUNS)!r} to resume: start one without --resume.")
    began = (folder / "recipe.yaml").is_file() and not (folder / "meta.json").is_file()
    if began and not numbered(folder / "checkpoints"):
        raise UsageError(
            f"the run in {str(folder)!r} was stopped before its first checkpoint: start it again with the same command "
            "without --resume."
        )
    return open_checkpoint(folder, thorough=True)
