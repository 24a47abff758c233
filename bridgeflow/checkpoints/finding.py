"""Which checkpoint is meant: by a task, by a recipe with an installed model, or by a folder."""

from __future__ import annotations

import os
from pathlib import Path

from bridgeflow import registry
from bridgeflow.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bridgeflow.checkpoints.runs import latest_run
from bridgeflow.errors import BridgeflowError, UsageError


def find_checkpoint(name_or_folder: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint that a task's name, a recipe's name or a folder means, as `bridgeflow.load` takes them.

    Raises BridgeflowError where there is none or it is damaged, and UsageError for a name that does not exist.
    """
    name = os.fspath(name_or_folder)
    is_name = isinstance(name_or_folder, str) and not os.path.dirname(name) and name not in ("", ".", "..")
    found = _of_task(name) if is_name else None
    if found is not None:
        return found
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return open_checkpoint(folder)
    model = registry.shipped(name) if isinstance(name_or_folder, str) and name else None
    if model is not None:
        return open_checkpoint(model)
    if is_name and registry.offering("task", name):
        raise BridgeflowError(
            f"there is no run of task {name!r} under 'runs': train one with bridgeflow.train({name!r}), or give the "
            "folder of a run or a checkpoint."
        )
    if is_name:
        raise registry.unknown("task", name, [plugin.name for plugin in registry.installed("task")])
    raise UsageError(f"there is no folder {name!r}: give a task's name, or the folder of a run or a checkpoint.")


def checkpoint_for(task: str, given: str | None) -> Checkpoint:
    """The checkpoint that a command runs: `given`, a folder or the name of a recipe with an installed model; or by
    default that of the task's latest run under ./runs, else the model that is installed with the task.

    Raises BridgeflowError where there is none or it is damaged.
    """
    if given is None:
        found = _of_task(task)
        if found is None:
            raise BridgeflowError(
                f"there is no checkpoint of task {task!r} under 'runs': train one with bridgeflow train --task {task}, "
                "or name one with --checkpoint."
            )
        return found
    if Path(given).is_dir():
        return open_checkpoint(Path(given))
    model = registry.shipped(given)
    if model is None:
        raise BridgeflowError(
            f"there is no folder {given!r}: --checkpoint takes a run, a checkpoint of one, or the name of a recipe "
            "with an installed model."
        )
    return open_checkpoint(model)


def _of_task(task: str) -> Checkpoint | None:
    """The newest checkpoint of a task's latest run under ./runs, else the model that is installed with it, or None."""
    folder = latest_run(task)
    if folder is None and registry.offering("task", task):
        plugin = registry.find("task", task)
        declared = registry.loaded(plugin)
        folder = registry.shipped(declared.default_model or declared.default_recipe, plugin.distribution)
    return None if folder is None else open_checkpoint(folder)
