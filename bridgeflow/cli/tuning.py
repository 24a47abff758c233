"""`bridgeflow tune-sampler`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridgeflow.cli.options import (
    check_task,
    data_options,
    device_option,
    find_task,
    given_checkpoint,
    json_option,
    parse_columns,
    task_option,
)
from bridgeflow.cli.output import emit

if TYPE_CHECKING:
    from bridgeflow.checkpoints.checkpoint import Checkpoint
    from bridgeflow.data.pairs import Examples
    from bridgeflow.evaluation.trials import Trial, Tuning

SHARE = 1000
"""Parts of the progress."""


def _scales(ctx: click.Context, param: click.Parameter, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--guidance {text!r} is no list of numbers, such as 1,2,3.") from error


@click.command(
    "tune-sampler",
    epilog="Examples:\n\n\b\n"
    "  bridgeflow tune-sampler --task depth\n"
    "  bridgeflow tune-sampler --task t2i --guidance 1,2,3 --dry-run\n"
    "  bridgeflow tune-sampler --task depth --undo",
)
@task_option()
@click.option("--checkpoint", metavar="DIR", help="Run or checkpoint; the task's latest run under runs/ by default.")
@data_options
@click.option("--count", type=click.IntRange(min=16), default=128, show_default=True, help="Held-out examples.")
@click.option("--metric", metavar="NAME", help="Metric to tune by; the task's first by default.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=1),
    default=0.01,
    show_default=True,
    help="How much worse than the best it may be, as a share.",
)
@click.option(
    "--most", type=click.IntRange(min=1, max=1000), default=25, show_default=True, help="Most evaluations of a result."
)
@click.option("--guidance", callback=_scales, metavar="SCALES", help="Scales to try, such as 1,2,3; 1 is none.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of whatever is drawn.")
@click.option("--dry-run", is_flag=True, help="Show what would be chosen; write nothing.")
@click.option("--undo", is_flag=True, help="Put back the sampling from before.")
@device_option
@json_option
def tune_sampler(
    task: str,
    checkpoint: str | None,
    data: str | None,
    columns: tuple[str, ...],
    count: int,
    metric: str | None,
    tolerance: float,
    most: int,
    guidance: list[float] | None,
    seed: int,
    dry_run: bool,
    undo: bool,
    device: str | None,
    as_json: bool,
) -> int:
    """Find the cheapest good solver, grid, steps and guidance for a checkpoint, and make them its defaults.

    Prints quality against the number of network evaluations, and writes tuning.json and tuning.png into the
    checkpoint.
    """
    find_task(task)
    from bridgeflow import registry
    from bridgeflow.assembly.preparing import open_rows
    from bridgeflow.config import recipe as recipes
    from bridgeflow.data.pairs import read_examples
    from bridgeflow.errors import UsageError
    from bridgeflow.evaluation import trials, tuning
    from bridgeflow.evaluation.runner import NothingToScore
    from bridgeflow.inference.pipeline import Pipeline
    from bridgeflow.runtime.console import Progress

    console = Progress()
    opened = given_checkpoint(task, checkpoint)
    check_task(str(opened.meta["task"]), task, opened.folder)
    if undo:
        return _undo(opened, dry_run, console)
    if not dry_run and registry.is_installed_model(opened.folder):
        raise UsageError(
            f"the model in {str(opened.folder)!r} is installed with its recipe and is not changed: copy it and name "
            "the copy with --checkpoint, or look with --dry-run."
        )
    if data is None:
        opened.check_plugins()
    pipeline = Pipeline.of(opened, device)
    changes = {"data": recipes.data_section(data)} if data else {}
    recipe = pipeline.assembly.recipe.changed(**changes, columns=parse_columns(columns))
    pipeline.assembly.recipe = recipe
    rows = open_rows(recipe, "held_out", console)
    examples = read_examples(rows, pipeline.assembly.task, recipe.columns, 2 * count)
    first, fresh = _parted(examples, count)
    if len(first.sources) < tuning.LEAST:
        raise NothingToScore(
            f"{rows.description}: {len(first.sources)} held-out rows can be read, and tuning needs {tuning.LEAST}: "
            f"{recipe.data.to_hold_out}."
        )
    for sentence in examples.unreadable[:3]:
        console.warn(sentence)
    if len(fresh.sources) < tuning.LEAST:
        console.warn(f"{len(examples.sources)} rows are held out: none are left to confirm the choice on others.")
        fresh = type(fresh)()

    def show(share: float, what: str) -> None:
        console(int(SHARE * share), SHARE, "tuning, per mille", detail=f"  {what}")

    try:
        found = tuning.tune(pipeline, first, fresh, metric, tolerance, most, guidance, seed, show)
    except UsageError as error:
        raise UsageError(f"--{error}") from error
    console.clear()
    if not as_json:
        _print(found)
    if not dry_run:
        note = {
            "metric": found.metric,
            "value": found.chosen.value,
            "examples": found.examples,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "before": opened.tuned.get("before") or opened.sampling().model_dump(mode="json"),
        }
        opened.with_sampling(found.chosen.sampling, note)
        _save(found, opened.folder, console)
        told = trials.described(found.chosen.sampling)
        if found.chosen is found.present:
            console.say(f"{opened.folder} goes on sampling with {told}.")
        else:
            console.say(f"{opened.folder} now samples with {told}; --undo puts it back.")
    if as_json:
        emit(json.dumps({"checkpoint": str(opened.folder), "written": not dry_run, **found.json()}, indent=1))
    return 0


def _undo(opened: Checkpoint, dry_run: bool, console: Any) -> int:
    from pydantic import ValidationError

    from bridgeflow.config.keys import SamplingSettings
    from bridgeflow.errors import BridgeflowError
    from bridgeflow.evaluation.trials import described

    before = opened.tuned.get("before")
    if before is None:
        raise BridgeflowError(f"the sampling of {str(opened.folder)!r} was not tuned: there is nothing to undo.")
    try:
        sampling = SamplingSettings.model_validate(before)
    except ValidationError as error:
        raise BridgeflowError(
            f"what {str(opened.folder)!r} notes of its sampling from before does not fit: tune it again instead."
        ) from error
    if dry_run:
        console.say(f"{opened.folder} would sample with {described(sampling)} again.")
        return 0
    opened.with_sampling(sampling, None)
    console.say(f"{opened.folder} samples with {described(sampling)} again.")
    return 0


def _parted(examples: Examples, count: int) -> tuple[Examples, Examples]:
    """The examples to tune on, and those to confirm the choice on."""
    both = []
    for part in (slice(0, count), slice(count, None)):
        both.append(type(examples)(examples.sources[part], examples.truths[part], examples.rows[part]))
    return both[0], both[1]


def _print(found: Tuning) -> None:
    """A line for each setting that no cheaper one beats, and for the present one; and what the choice was."""
    from bridgeflow.evaluation.trials import described

    emit(f"{found.examples} held-out examples, {found.metric} ({found.way} is better)")
    shown = [trial for trial in found.trials if trial in _front(found) or trial in (found.present, found.chosen)]
    width = max(len(described(trial.sampling)) for trial in shown)
    emit(f"{'cost':>4}  {'evaluations':>11}  {'setting':<{width}}  {found.metric:>18}  {'s each':>7}")
    for trial in shown:
        names = [name for name in ("present", "best", "chosen") if getattr(found, name) is trial]
        error = trial.scores.error(found.metric)
        emit(
            f"{trial.cost:>4}  {trial.evaluations:>11}  {described(trial.sampling):<{width}}  "
            f"{trial.value:>9.4f} ±{error:>7.4f}  {trial.seconds:>7.3f}  {', '.join(names)}".rstrip()
        )
    emit(f"{len(found.trials)} settings tried; those are shown that no cheaper one beats.")
    if found.confirmed:
        chosen = found.confirmed["chosen"]
        emit(f"on {found.fresh} other examples, chosen {chosen.value:.4f}")
        for name in ("present", "best"):
            own = found.confirmed[name]
            if own.sampling != chosen.sampling:
                difference, half = own.scores.difference(chosen.scores, found.metric)
                emit(f"  {name} {own.value:.4f}, {difference:+.4f} ±{half:.4f} beside it")


def _front(found: Tuning) -> list[Trial]:
    """The trials that are better than every cheaper one."""
    sign = 1 if found.way == "lower" else -1
    front: list[Trial] = []
    for trial in found.trials:
        if not front or sign * trial.value < sign * front[-1].value:
            front.append(trial)
    return front


def _save(found: Tuning, folder: Path, console: Any) -> None:
    from bridgeflow.evaluation.tuning_picture import save_picture
    from bridgeflow.runtime import durable

    try:
        durable.write_whole(folder / "tuning.json", json.dumps(found.json(), indent=1))
        save_picture(found, folder / "tuning.png")
    except OSError as error:
        console.warn(f"tuning.json or tuning.png cannot be written to {str(folder)!r} ({error.strerror or error}).")
        return
    console.say(f"quality against cost: {folder / 'tuning.png'}")
