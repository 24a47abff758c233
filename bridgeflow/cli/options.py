"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bridgeflow.checkpoints.checkpoint import Checkpoint
    from bridgeflow.inference.pipeline import Pipeline

Command = Callable[..., Any]


def task_option(required: bool = True) -> Callable[[Command], Command]:
    """`--task NAME`."""
    return click.option("--task", required=required, metavar="NAME", help="Task, as in 'bridgeflow tasks list'.")


def data_options(command: Command) -> Command:
    """`--data` and `--columns`."""
    command = click.option(
        "--columns",
        multiple=True,
        metavar="NEEDED=OWN",
        help="The data's own name of a column; may be repeated.",
    )(command)
    return click.option(
        "--data", metavar="DATA", help="Data set: blocks, folder:PATH, hf:NAME[:CONFIG], or a plugin's."
    )(command)


def _check_device(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    if name is None:
        return None
    from bridgeflow import api
    from bridgeflow.errors import UsageError

    try:
        api.check_device(name)
    except UsageError as error:
        raise click.UsageError(f"--{error}") from error
    return name


device_option = click.option(
    "--device",
    metavar="NAME",
    callback=_check_device,
    help="cpu, cuda, cuda:1, ...; a GPU by default where there is one.",
)


def _check_solver(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    """The name, where a solver of it is installed; checked before anything is loaded."""
    from bridgeflow import registry

    if name is not None and not registry.offering("solver", name):
        names = ", ".join(plugin.name for plugin in registry.installed("solver"))
        raise click.UsageError(f"--solver {name!r} is none: one of {names} is expected.")
    return name


solver_option = click.option(
    "--solver",
    metavar="NAME",
    callback=_check_solver,
    help="Solver, as in 'bridgeflow plugins list --kind solver'.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def parse_columns(values: tuple[str, ...]) -> dict[str, str]:
    """`NEEDED=OWN` pairs, separated by commas or given several times."""
    renames: dict[str, str] = {}
    for value in ",".join(values).split(",") if values else ():
        needed, equals, own = value.partition("=")
        if not equals or not needed.strip() or not own.strip():
            raise click.UsageError(f"--columns {value!r} is not of the form NEEDED=OWN, such as text=caption.")
        renames[needed.strip()] = own.strip()
    return renames


LOADING = "loading torch and the plugins"
"""What every command says of its first imports, where they take long."""


def find_task(name: str, noted_by: Callable[[], Checkpoint] | None = None, with_data: bool = False) -> Any:
    """The task of a name. Raises UsageError with the nearest one that is installed.

    noted_by: finds the checkpoint that the command is about, which notes the distribution that a task comes from: where
        the task is not installed, the error then says what to install. with_data: whether its data set counts, too.
    """
    from bridgeflow import registry
    from bridgeflow.errors import BridgeflowError, UsageError

    try:
        return registry.load("task", name)
    except UsageError as error:
        try:
            checkpoint = None if noted_by is None else noted_by()
        except BridgeflowError:
            raise error from None
        if checkpoint is not None:
            checkpoint.check_plugins(with_data)
        raise


def given_checkpoint(task: str, given: str | None) -> Checkpoint:
    """The checkpoint that `--checkpoint` names, or the task's own, see `checkpoint_for`."""
    from bridgeflow.checkpoints.finding import checkpoint_for

    return checkpoint_for(task, given)


def set_sampling(
    pipeline: Pipeline, steps: int | None, solver: str | None, guidance: float | None, weak: str | None = None
) -> None:
    """Sets how a pipeline samples from `--steps`, `--solver`, `--guidance` and `--weak`. Raises UsageError."""
    from bridgeflow.errors import UsageError

    if weak is not None:
        if guidance is None:
            raise UsageError("--weak needs --guidance SCALE, such as 2: how far to go from the weaker checkpoint.")
        pipeline.guide_by(Path(weak))
    try:
        pipeline.sampling = pipeline.adjusted(steps, solver, guidance)
    except UsageError as error:
        raise UsageError(f"--{error}") from error


def check_task(trained_for: str, task: str, folder: Path) -> None:
    """Raises UsageError where a checkpoint is one of another task."""
    from bridgeflow import registry

    if not registry.is_same("task", trained_for, task):
        raise click.UsageError(f"the checkpoint {str(folder)!r} was trained for task {trained_for!r}, not {task!r}.")


def facing(pipeline: Pipeline, task: str, folder: Path, options: Mapping[str, Any] | None = None) -> Pipeline:
    """A pipeline of the task: the one given, or its model run backwards where it was trained for the mirrored task.
    options: of a task that is done backwards. Raises UsageError for a checkpoint of another task."""
    from bridgeflow import registry
    from bridgeflow.inference.reverse import is_mirror, reversed_pipeline

    trained_for = pipeline.assembly.recipe.task_name
    if not registry.is_same("task", trained_for, task) and is_mirror(
        registry.load("task", task), type(pipeline.assembly.task)
    ):
        return reversed_pipeline(pipeline, task, options)
    check_task(trained_for, task, folder)
    return pipeline


def check_recipe(name: str, written_for: str, task: str) -> None:
    """Raises UsageError where a recipe is one of another task."""
    from bridgeflow import registry

    if not registry.is_same("task", written_for, task):
        raise click.UsageError(f"recipe {name!r} belongs to task {written_for!r}, not to {task!r}.")
