"""What a program does with bridgeflow: load, train, and look at what is installed.

Everything here is reached as `bridgeflow.NAME`. Importing it imports neither torch nor pydantic.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridgeflow import registry
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.offered import datasets, tasks

if TYPE_CHECKING:
    from bridgeflow.checkpoints.checkpoint import Checkpoint
    from bridgeflow.config.recipe import Recipe
    from bridgeflow.evaluation.runner import Report
    from bridgeflow.inference.pipeline import Pipeline
    from bridgeflow.modality import Progress
    from bridgeflow.task import Task

Place = str | os.PathLike[str]
Tree = Mapping[str, Any]

RESUMABLE = ("training", "sampling", "data", "columns")
"""Sections of a recipe that may change when a run goes on."""


class ModelWouldChange(UsageError):
    """A change that a run which goes on cannot take."""


# -- using a checkpoint ------------------------------------------------------------------------------------


def load(
    name_or_folder: Place,
    *,
    device: str | None = None,
    precision: str | None = None,
    low_memory: bool = False,
    watch: Progress | None = None,
) -> Pipeline:
    """A pipeline for one input or a list of them, from a checkpoint.

        >>> depth = bridgeflow.load("depth")("image.jpg")  # (H, W), float32, metres
        >>> pictures = bridgeflow.load("runs/t2i-blocks-01")(["a red cube", "a blue sphere"], samples=4, seed=7)

    name_or_folder: the name of a task, which means its latest run under ./runs, or the model that is installed with it
        where there is none; the name of a recipe with an installed model, such as 'depth/blocks-full'; or the folder of
        a run or of one of its checkpoints. Where a task and a folder have the name, the task is meant: write './depth'
        for the folder.
    device: 'cpu', 'cuda', 'cuda:1', ...; None takes a GPU where there is one.
    precision: 'fp32', 'bf16', or None for that of its training where the device is faster with it.
    low_memory: encoder, network and decoder are in memory one after the other.
    watch: called as `watch(done, total, what)` whenever something takes long.

    Raises BridgeflowError where there is no checkpoint, where it is damaged, and where a plugin that it needs is not
    installed; UsageError for a name, a device or a precision that does not exist. A plugin in another version than
    the checkpoint was written with is a warning.
    """
    if precision not in (None, "auto", "fp32", "bf16"):
        raise UsageError(f"no precision {precision!r}: fp32, bf16 or auto is expected.")
    if device is not None:
        check_device(device)

    def tell(note: str) -> None:
        warnings.warn(note, stacklevel=4)

    from bridgeflow.checkpoints.finding import find_checkpoint

    return open_pipeline(find_checkpoint(name_or_folder), tell, device, precision, low_memory, watch)


def open_pipeline(
    checkpoint: Checkpoint,
    tell: Callable[[str], None],
    device: str | None = None,
    precision: str | None = None,
    low_memory: bool = False,
    watch: Progress | None = None,
) -> Pipeline:
    """The pipeline of an opened checkpoint, see `load`. `tell` is called with each sentence a person should know."""
    from bridgeflow.inference.pipeline import Pipeline
    from bridgeflow.runtime.precision import slower_than_float32

    checkpoint.check_plugins(with_data=False)
    for note in checkpoint.notes():
        tell(note)
    pipeline = Pipeline.of(checkpoint, device, None if precision == "auto" else precision, low_memory, watch)
    slow = slower_than_float32(pipeline.stages.device, ["precision=auto"]) if precision == "bf16" else None
    if slow is not None:
        tell(slow)
    return pipeline


def check_device(name: str) -> None:
    """Raises UsageError where torch knows no such device, or this machine does not have it."""
    import torch

    expected = "cpu, cuda or cuda:1 is expected."
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device {name!r} is no device: {expected}") from error
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError(f"device {name!r} is not to be had: this torch or this machine has none.")
    elif device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is none that models run on: {expected}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not to be had: torch sees {torch.cuda.device_count()} GPUs here.")


# -- training ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    folder: Path
    """Its folder, with checkpoints, samples, metrics and the resolved recipe."""
    checkpoint: Path
    """Its newest checkpoint."""
    report: Report | None
    """Figures on held-out examples; None where none were asked for, or where it was interrupted."""
    steps: int
    """Optimiser steps done."""
    seconds: float
    """How long they took."""
    interrupted: str | None
    """The signal that stopped it early, such as 'SIGINT'; None where it is done."""

    def load(self, **how: Any) -> Pipeline:
        """A pipeline from its newest checkpoint; the keywords are those of `bridgeflow.load`."""
        return load(self.checkpoint, **how)


def train(
    recipe: Place | Tree,
    *,
    output: Place | None = None,
    resume: bool = False,
    device: str | None = None,
    **overrides: Any,
) -> Run:
    """Trains a bridge and returns the run.

        >>> run = bridgeflow.train("depth", training={"steps": 200})
        >>> run = bridgeflow.train("depth/folder", data="folder:photos", **{"optimizer.learning_rate": 5e-4})
        >>> run.load()("image.jpg")

    recipe: a task's name, which means its default recipe; an installed recipe, as in `bridgeflow.recipes`; the path
        of a YAML file; or a mapping of a recipe's keys, which may have `extends`.
    output: folder of the run; runs/TASK-RECIPE-NN by default.
    resume: goes on with the run in `output`, or with the latest of the task that `recipe` names.
    device: 'cpu', 'cuda', ...; None takes a GPU where there is one.
    overrides: keys of the recipe, as mappings laid over it (`training={"steps": 20}`) or with dots
        (`**{"training.steps": 20}`). `data` may be the short form of the command line, such as 'folder:PATH'.

    torch's global generator is seeded from the recipe's `training.seed`. Raises UsageError with every mistake in the
    recipe at once, before anything is written.
    """
    try:
        return _train(recipe, output, resume, device, overrides)
    except BridgeflowError as error:
        error.args = tuple(_as_keywords(own) if isinstance(own, str) else own for own in error.args)
        raise


def _as_keywords(sentence: str) -> str:
    """A sentence of the command line, with the keywords of `train` for its options."""
    return re.sub(r"--(output|device)\b", r"\1", sentence.replace("--resume", "resume=True"))


def _train(
    recipe: Place | Tree, output: Place | None, resume: bool, device: str | None, overrides: Mapping[str, Any]
) -> Run:
    from bridgeflow.checkpoints.runs import find_resumable
    from bridgeflow.training import start

    if device is not None:
        check_device(device)
    place = None if output is None else os.fspath(output)
    changes = [nested(key, value) for key, value in overrides.items()]
    checkpoint = None
    if resume:
        if not isinstance(recipe, str) or recipe not in tasks:
            raise UsageError(f"resume goes on with the run's own recipe: give the name of its task, not {recipe!r}.")
        checkpoint = find_resumable(recipe, place)
        resolved = resumed_recipe(checkpoint, list(zip(overrides, changes, strict=True)))
        if not registry.is_same("task", resolved.task_name, recipe):
            raise UsageError(f"the run in {place!r} is one of task {resolved.task_name!r}, not {recipe!r}.")
    else:
        resolved = _resolved(recipe, changes)
    run = start.train(resolved, place, checkpoint, None if device is None else str(device))
    outcome = run.outcome
    return Run(run.folder, outcome.checkpoint, run.report, outcome.step, outcome.seconds, outcome.interrupted)


def nested(path: str, value: Any) -> dict[str, Any]:
    """The tree of keys in which `value` stands at a path with dots; a data set's short form is written out."""
    keys = path.split(".")
    if path == "data" and isinstance(value, str):
        from bridgeflow.config import recipe as recipe_module

        value = recipe_module.data_section(value)
    elif path == "data" and not isinstance(value, Mapping):
        raise UsageError(
            f"data should be a name, such as 'blocks' or 'folder:photos', or a mapping of its keys, not {value!r}."
        )
    for key in reversed(keys):
        value = {key: value}
    tree: dict[str, Any] = value
    return tree


def _resolved(recipe: Place | Tree, changes: Sequence[Tree]) -> Recipe:
    from bridgeflow.config import layers
    from bridgeflow.config import recipe as recipe_module

    if isinstance(recipe, Mapping):
        tree = dict(recipe)
        extended = tree.pop("extends", None)
        if extended is not None and not isinstance(extended, str):
            raise UsageError(f"extends names one recipe, such as 'depth/blocks', not {extended!r}.")
        tree = layers.merge(layers.read(extended), tree) if extended is not None else tree
        name = f"{tree.get('task', 'recipe')}/own"
    else:
        name = os.fspath(recipe)
        if name in tasks:
            given = next((tree["data"] for tree in reversed(changes) if "data" in tree), None)
            name = default_recipe(tasks[name], name, given)
        elif "/" not in name and not name.endswith((".yaml", ".yml")):
            raise registry.unknown("task", name, list(tasks))
        tree = layers.read(name)
    for change in changes:
        tree = layers.merge(tree, change)
    return recipe_module.resolve(tree, name)


def default_recipe(declared: type[Task], task: str, data: str | Tree | None) -> str:
    """The recipe of a task that is meant where none is named: that of the data where they have one (a cache was made
    for a recipe), else the task's default, or its recipe for folders where other data than the default's are given.

    data: the name of the data set, or NAME:LOCATION, or keys of a recipe's section `data`; None for the recipe's own.
    """
    from bridgeflow.config import layers
    from bridgeflow.config import recipe as recipe_module
    from bridgeflow.registry import naming

    section = recipe_module.data_section(data) if isinstance(data, str) else data or {}
    given = str(section.get("name") or "")
    plugin = registry.find("task", task)
    own_recipe = datasets[given].recipe_for(section) if given in datasets else None
    if own_recipe is not None:
        return own_recipe
    default = str(declared.default_recipe)
    if not default:
        known = ", ".join(layers.recipe_names(plugin.name)) or "a YAML file of your own"
        raise UsageError(f"the task {task!r} has no default recipe: name one, such as {known}.")
    default = naming.recipe_at_home(default, plugin.distribution)
    own = f"{plugin.name}/folder"
    if given and own in layers.recipe_names(plugin.name):
        usual = str(layers.read(default).get("data", {}).get("name"))
        return default if registry.is_same("dataset", given, usual) else naming.recipe_at_home(own, plugin.distribution)
    return default


def resumed_recipe(checkpoint: Checkpoint, changes: Sequence[tuple[str, Tree]]) -> Recipe:
    """The recipe of a run that goes on, with changes laid over it: (what the user calls it, tree of keys) each.

    Raises ModelWouldChange for a change that would be one of the model.
    """
    from bridgeflow.config import layers
    from bridgeflow.config import recipe as recipe_module

    resolved = checkpoint.recipe()
    tree = resolved.tree()
    for label, change in changes:
        if not set(change) <= set(RESUMABLE):
            raise ModelWouldChange(
                f"resume keeps the model as it is: {label!r} cannot change, only training., sampling., data. and "
                "columns. keys."
            )
        tree = layers.merge(tree, change)
    return recipe_module.resolve(tree, resolved.name, resolved.homes)
