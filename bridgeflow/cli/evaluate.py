"""`bridgeflow eval`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bridgeflow.cli.options import (
    check_task,
    data_options,
    device_option,
    find_task,
    json_option,
    parse_columns,
    task_option,
)


@click.command("eval", epilog="Example:\n\n\b\n  bridgeflow eval --task depth --count 256 --picture depth.png")
@task_option()
@click.option("--checkpoint", metavar="DIR", help="Run or checkpoint; the task's latest run under runs/ by default.")
@data_options
@click.option("--count", type=click.IntRange(min=1), default=256, show_default=True, help="Held-out examples.")
@click.option("--steps", type=click.IntRange(min=1), help="Solver steps; the checkpoint's by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of whatever is drawn.")
@click.option("--picture", metavar="FILE", help="Write a grid of source, truth and prediction.")
@device_option
@json_option
def evaluate(
    task: str,
    checkpoint: str | None,
    data: str | None,
    columns: tuple[str, ...],
    count: int,
    steps: int | None,
    seed: int,
    picture: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Score a checkpoint on held-out data with the task's metrics, beside a trivial baseline."""
    find_task(task)
    if picture is not None and Path(picture).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise click.UsageError(f"--picture {picture!r} must end in .png, .jpg or .webp.")
    from bridgeflow import recipe as recipes
    from bridgeflow.cli.run import _find_checkpoint, _set_sampling
    from bridgeflow.cli.tables import print_report
    from bridgeflow.console import Progress
    from bridgeflow.evaluation import runner
    from bridgeflow.inference import Pipeline
    from bridgeflow.training.checkpoint import open_checkpoint
    from bridgeflow.training.start import open_rows

    console = Progress()
    folder = _find_checkpoint(task, checkpoint)
    if data is None:
        open_checkpoint(folder).check_plugins()
    pipeline = Pipeline.open(folder, device)
    _set_sampling(pipeline, steps, None, None)
    recipe = pipeline.assembly.recipe
    check_task(recipe.recipe.task, task, folder)
    changes = {"data": recipes.data_section(data)} if data else {}
    recipe = recipe.changed(**changes, columns=parse_columns(columns))
    pipeline.assembly.recipe = recipe
    report = runner.evaluate(
        pipeline,
        open_rows(recipe, "held_out", console),
        open_rows(recipe, "train", console),
        count,
        seed,
        lambda done, total: console(done, total, "scoring held-out examples"),
    )
    console.clear()
    if picture and report.picture is not None:
        Path(picture).parent.mkdir(parents=True, exist_ok=True)
        report.picture.save(picture)
    if as_json:
        print(json.dumps(report.json(), indent=1))
    elif report.figures:
        print_report(report)
    else:
        console.say(f"task {task!r} has no metrics of its own; --picture shows its results.")
    return 0
