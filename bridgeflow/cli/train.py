"""`bridgeflow train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridgeflow.cli.options import (
    LOADING,
    check_recipe,
    data_options,
    device_option,
    find_task,
    given_checkpoint,
    json_option,
    parse_columns,
    task_option,
)
from bridgeflow.cli.output import emit, stream
from bridgeflow.runtime import launch

if TYPE_CHECKING:
    from bridgeflow.checkpoints.checkpoint import Checkpoint


@click.command(
    epilog="Examples:\n\n\b\n"
    "  bridgeflow train --task depth\n"
    "  bridgeflow train --task superres --data folder:photos --recipe superres/folder\n"
    "  bridgeflow train --task t2i training.steps=4000 optimizer.learning_rate=5e-4\n"
    "  bridgeflow train --task depth --resume\n"
    "  bridgeflow train --task t2i --recipe t2i/crossflow-256 --from imported/ --data folder:photos\n"
    "  accelerate launch -m bridgeflow train --task depth"
)
@task_option()
@click.option("--recipe", metavar="NAME|FILE", help="Recipe, as in 'bridgeflow recipes list', or a YAML file.")
@data_options
@click.option("-o", "--output", metavar="DIR", help="Folder of the run; runs/TASK-RECIPE-NN by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in --output, or with the task's latest.")
@click.option(
    "--from",
    "initial",
    metavar="CHECKPOINT",
    help="Start a new run with the weights of another, of an imported one, or of an installed model.",
)
@click.option("--dry-run", is_flag=True, help="Try a few steps, print shapes, sizes, memory and speed; write nothing.")
@device_option
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
def train(
    task: str,
    recipe: str | None,
    data: str | None,
    columns: tuple[str, ...],
    output: str | None,
    resume: bool,
    initial: str | None,
    dry_run: bool,
    device: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Train a bridge.

    No recipe means the task's embedded default, or its recipe for folders where --data folder:PATH is given.
    A key is overridden as key.path=value; 'bridgeflow recipes show NAME' lists the keys.
    """
    from bridgeflow.runtime.console import Progress

    console = Progress(quiet=not _speaks())
    with console.doing(LOADING):
        declared = find_task(task, (lambda: _resumable(task, output)) if resume else None, with_data=True)
        from bridgeflow import api
        from bridgeflow.config import recipe as recipes
        from bridgeflow.training import start
    renames = parse_columns(columns)
    if resume and initial is not None:
        raise click.UsageError("--resume goes on with a run's own weights: leave --from out.")
    checkpoint = None
    if resume:
        with console.doing("checking the checkpoint"):
            checkpoint = _resumable(task, output)
        if dry_run:
            raise click.UsageError("--dry-run tries a new run: leave --resume out.")
        resolved = _resumed(checkpoint, recipe, data, renames, overrides)
        console.say(f"going on from step {checkpoint.step:,} of {checkpoint.folder.parents[1]}")
    else:
        name = recipe or api.default_recipe(declared, task, data)
        resolved = recipes.load(name, overrides, data, renames)
    check_recipe(resolved.name, resolved.task_name, task)
    begin = None
    if initial is not None:
        from bridgeflow import registry
        from bridgeflow.checkpoints.checkpoint import open_checkpoint

        named = not Path(initial).exists() and registry.shipped(initial) is not None
        begin = open_checkpoint(given_checkpoint(task, initial).folder if named else Path(initial), thorough=True)
    if dry_run:
        from bridgeflow.training.dry_run import dry_run as try_out

        facts = try_out(resolved, device, console, initial=begin)
        console.clear()
        _print_dry_run(facts, as_json)
        return 0
    run = start.train(resolved, output, checkpoint, device, console, begin)
    if not _speaks():
        return 0
    return _finish(run, task, resolved, as_json, console)


def _speaks() -> bool:
    """Whether this is the process, of those that train together, that reports progress."""
    return launch.rank() == 0


def _resumable(task: str, output: str | None) -> Checkpoint:
    from bridgeflow.checkpoints.runs import find_resumable

    return find_resumable(task, output)


def _resumed(
    checkpoint: Any, recipe: str | None, data: str | None, columns: dict[str, str], overrides: tuple[str, ...]
) -> Any:
    from bridgeflow import api
    from bridgeflow.config import layers

    if recipe is not None:
        raise click.UsageError("--resume goes on with the run's own recipe: leave --recipe out.")
    changes: list[tuple[str, dict[str, Any]]] = []
    if data is not None:
        changes.append(("--data", api.nested("data", data)))
    if columns:
        changes.append(("--columns", {"columns": columns}))
    changes += [(assignment, layers.override({}, assignment)) for assignment in overrides]
    try:
        return api.resumed_recipe(checkpoint, changes)
    except api.ModelWouldChange as error:
        raise click.UsageError(f"--{error}") from error


def _finish(run: Any, task: str, resolved: Any, as_json: bool, console: Any) -> int:
    from bridgeflow.checkpoints.runs import latest_run
    from bridgeflow.cli.tables import print_report
    from bridgeflow.runtime.console import duration

    outcome = run.outcome
    if outcome.unreadable:
        count = len(outcome.unreadable)
        rows = "row" if count == 1 else "rows"
        console.say(f"skipped {count:,} {rows} that could not be read; see why with: {resolved.data.checked_by}")
    if outcome.interrupted is not None:
        console.say(
            f"stopped by {outcome.interrupted} at step {outcome.step:,}; saved in {outcome.checkpoint}\n"
            f"go on with: bridgeflow train --task {task} --resume --output {run.folder}"
        )
        return 130 if outcome.interrupted == "SIGINT" else 143
    facts = {
        "run": str(run.folder),
        "checkpoint": str(outcome.checkpoint),
        "steps": outcome.step,
        "seconds": round(outcome.seconds, 1),
        "evaluation": run.report.json() if run.report else None,
    }
    if as_json:
        emit(json.dumps(facts, indent=1))
        return 0
    if run.report is not None:
        print_report(run.report)
        if run.report.picture is not None:
            emit(f"source, truth and prediction: {run.folder / 'evaluation.png'}")
    argument = '"SOME WORDS"' if resolved.source.textual else "FILE"
    argument += "".join(f" --with {name}=VALUE" for name in resolved.conditions)
    found = latest_run(task)
    where = "" if found is not None and found.resolve() == run.folder.resolve() else f" --checkpoint {run.folder}"
    console.say(
        f"done in {duration(outcome.seconds)}   {run.folder}   next: bridgeflow run --task {task} {argument}{where}"
    )
    stream().flush()
    return 0


def _print_dry_run(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(json.dumps(facts, indent=1))
        return
    from bridgeflow.config import layers

    emit(layers.dump(facts["recipe"]))
    for name, value in facts.items():
        if name == "recipe":
            continue
        title = name.replace("_", " ")
        if isinstance(value, dict):
            for part, own in value.items():
                emit(f"{f'{title}: {part}':<36} {_shown(own)}")
        else:
            emit(f"{title:<36} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
