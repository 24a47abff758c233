"""`bridgeflow eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridgeflow.cli.options import (
    LOADING,
    data_options,
    device_option,
    facing,
    find_task,
    given_checkpoint,
    json_option,
    parse_columns,
    set_sampling,
    solver_option,
    task_option,
)
from bridgeflow.cli.output import emit
from bridgeflow.errors import BridgeflowError

if TYPE_CHECKING:
    from bridgeflow.checkpoints.checkpoint import Checkpoint
    from bridgeflow.data.pairs import Examples
    from bridgeflow.evaluation.runner import Report
    from bridgeflow.inference.pipeline import Pipeline


@click.command(
    "eval",
    epilog="Examples:\n\n\b\n"
    "  bridgeflow eval --task depth --count 256 --picture depth.png\n"
    "  bridgeflow eval --task superres --data folder:photos --split all\n"
    "  bridgeflow eval --task depth --data folder:rooms options.alignment=scale_and_shift\n"
    "  bridgeflow eval --task depth --samples 8\n"
    "  bridgeflow eval --task depth --compare runs/depth-blocks-01 depth/blocks-full",
)
@task_option()
@click.option("--checkpoint", metavar="DIR", help="Run or checkpoint; the task's latest run under runs/ by default.")
@click.option("--compare", multiple=True, metavar="DIR", help="Score several on the same examples: --compare A B C.")
@data_options
@click.option(
    "--split",
    type=click.Choice(["held_out", "train", "all"]),
    default="held_out",
    show_default=True,
    help="Rows that are scored: all for data that nothing was trained on.",
)
@click.option("--count", type=click.IntRange(min=1), default=256, show_default=True, help="Examples.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Results for each example: their mean is scored, and their spread held against its errors.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Solver steps; the checkpoint's by default.")
@solver_option
@click.option("--guidance", type=float, metavar="SCALE", help="Scale of the guidance; 1 is none.")
@click.option("--weak", metavar="DIR", help="Guide away from this weaker checkpoint of the same run, by --guidance.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of whatever is drawn.")
@click.option(
    "--reverse",
    is_flag=True,
    help="Score the model run backwards too: on the true targets, and on its own results (a cycle).",
)
@click.option("--quick", is_flag=True, help="Leave out intervals and whatever takes long.")
@click.option("--weights", multiple=True, metavar="NAME=PLACE", help="Weights of a judge, such as lpips=alexnet.pth.")
@click.option("--picture", metavar="FILE", help="Write a grid of source, truth and prediction, worst and best apart.")
@device_option
@json_option
@click.argument("overrides", nargs=-1, metavar="[CHECKPOINT]... [options.KEY=VALUE]...")
def evaluate(
    task: str,
    checkpoint: str | None,
    compare: tuple[str, ...],
    data: str | None,
    columns: tuple[str, ...],
    split: str,
    count: int,
    samples: int,
    steps: int | None,
    solver: str | None,
    guidance: float | None,
    weak: str | None,
    seed: int,
    reverse: bool,
    quick: bool,
    weights: tuple[str, ...],
    picture: str | None,
    device: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Score a checkpoint on held-out data with the task's metrics, beside a trivial baseline.

    options.KEY=VALUE changes how the task scores, such as options.alignment of depth. Figures have 95 % confidence
    intervals over the examples. With --compare, each checkpoint's difference to the first has one, too, which is
    narrower: all are given the same examples with the same draws.
    """
    from bridgeflow.runtime.console import Progress

    console = Progress()
    with console.doing(LOADING):
        find_task(task)
        from bridgeflow.assembly.preparing import open_first_rows
        from bridgeflow.cli.tables import print_comparison, print_report
        from bridgeflow.evaluation import runner
    if compare:
        compare += tuple(own for own in overrides if "=" not in own)
        overrides = tuple(own for own in overrides if "=" in own)
    if picture is not None and Path(picture).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise click.UsageError(f"--picture {picture!r} must end in .png, .jpg or .webp.")
    if compare and checkpoint is not None:
        raise click.UsageError("--compare names every checkpoint that is scored: leave --checkpoint out.")
    if len(compare) == 1:
        raise click.UsageError("--compare needs two checkpoints or more: name them behind it.")
    if compare and weak is not None:
        raise click.UsageError("--weak guides one checkpoint by another of its run: leave --compare out.")
    if compare and quick:
        raise click.UsageError("--compare states how sure a difference is, so it takes its time: leave --quick out.")
    judges = _parse_weights(weights)
    if judges and quick:
        raise click.UsageError("--weights name judges that take their time: leave --quick out.")
    names = compare or (checkpoint,)
    examples: Examples | None = None
    scored: list[tuple[Pipeline, Report]] = []
    for name in names:
        with console.doing("opening the checkpoint"):
            opened = given_checkpoint(task, name)
            pipeline = _opened(opened, task, data, columns, device, _parse_options(overrides))
        set_sampling(pipeline, steps, solver, guidance, weak)
        pipeline.assembly.task.judge_by(judges)
        recipe = pipeline.assembly.recipe
        try:
            training = open_first_rows(recipe, runner.BASELINE_EXAMPLES, console)
            rows = _open(recipe, split, console)
        except BridgeflowError as error:
            if data is not None:
                raise
            raise BridgeflowError(_without_data(opened.folder, error)) from error
        if examples is None or (data is None and not compare):
            with console.doing("reading the held-out examples"):
                examples = runner.read_held_out(pipeline, rows, count, whole=not quick)
            _tell_of_rows(console, examples, rows, training if data is not None and split == "held_out" else None)
        what = f"scoring {runner.kind_of({'split': split})}"
        with console.doing(what):
            report = runner.report_on(
                pipeline,
                examples,
                training,
                seed,
                lambda done, total, what=what: console(done, total, what),  # type: ignore[misc]
                thorough=not quick,
                samples=samples,
                backwards=reverse,
            )
        report.scored = _facts(pipeline, name, rows.description, split, seed, samples)
        scored.append((pipeline, report))
    console.clear()
    assert examples is not None
    if picture:
        Path(picture).parent.mkdir(parents=True, exist_ok=True)
        _picture(scored, list(names), examples).save(picture)
    if as_json:
        first = scored[0][1]
        told = [
            {"checkpoint": name, **own.json(), **({"differences": own.differences(first)} if own is not first else {})}
            for name, (_, own) in zip(names, scored, strict=True)
        ]
        emit(json.dumps(told if compare else scored[0][1].json(), indent=1))
    elif not scored[0][1].figures:
        console.say(f"task {task!r} has no metrics of its own; --picture shows its results.")
    elif compare:
        print_comparison([report for _, report in scored], compare)
    else:
        print_report(scored[0][1])
    return 0


def _parse_weights(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for one in given:
        name, equals, place = one.partition("=")
        if not (name and equals and place):
            raise click.UsageError(f"--weights {one!r} should be NAME=PLACE, such as lpips=alexnet.pth.")
        found[name] = place
    return found


def _without_data(folder: Path, error: BridgeflowError) -> str:
    """What to do where the data of a checkpoint cannot be opened, which for an installed model its card says."""
    from bridgeflow import registry

    if not registry.is_installed_model(folder):
        return str(error)
    return (
        f"the data of the installed model {folder.parent.name}/{folder.name} are not here "
        f"({str(error).partition(':')[0]}): fetch them as {folder / 'README.md'} says, or give others with --data."
    )


def _parse_options(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The section `options` that the overrides make."""
    from bridgeflow.config import layers

    tree: dict[str, Any] = {}
    for assignment in overrides:
        if "=" not in assignment:
            raise click.UsageError(
                f"{assignment!r} is no options.KEY=VALUE: a checkpoint is named by --checkpoint, several by --compare."
            )
        if not assignment.startswith("options."):
            raise click.UsageError(
                f"{assignment!r} would change what was trained: only options.KEY=VALUE, how the task scores, goes here."
            )
        tree = layers.override(tree, assignment)
    options: dict[str, Any] = tree.get("options", {})
    return options


def _open(recipe: Any, split: str, console: Any) -> Any:
    """The rows of a split, or of both."""
    from bridgeflow.assembly.preparing import open_rows
    from bridgeflow.data.rows import JoinedRows, Rows

    if split != "all":
        return open_rows(recipe, "held_out" if split == "held_out" else "train", console)
    parts = [open_rows(recipe, "held_out", console), open_rows(recipe, "train", console)]
    known = [part for part in parts if isinstance(part, Rows)]
    if len(known) < len(parts):
        raise click.UsageError("--split all needs data of a known length: score a stream with --split held_out.")
    return JoinedRows([part for part in known if len(part)] or known[:1])


def _tell_of_rows(console: Any, examples: Examples, rows: Any, training: Any) -> None:
    """Says on stderr which rows were skipped, and where most of somebody's own data are not scored."""
    from bridgeflow.data.rows import Rows

    if examples.unreadable:
        count = len(examples.unreadable)
        some = "; ".join(examples.unreadable[:3]) + ("; ..." if count > 3 else "")
        what = "1 row cannot be read and is" if count == 1 else f"{count:,} rows cannot be read and are"
        console.warn(f"{what} skipped: {some}")
    if isinstance(training, Rows) and isinstance(rows, Rows) and len(training) > len(rows):
        console.say(
            f"scoring the {len(rows):,} held out of {len(rows) + len(training):,} rows; --split all scores every row."
        )


def _facts(pipeline: Pipeline, name: str | None, data: str, split: str, seed: int, samples: int) -> dict[str, Any]:
    """What was scored, and how."""
    recipe = pipeline.assembly.recipe
    return {
        "checkpoint": name,
        "data": data,
        "split": split,
        "seed": seed,
        "samples": samples,
        "sampling": pipeline.sampling.model_dump(mode="json"),
        "options": recipe.options.model_dump(mode="json"),
        "weights": pipeline.assembly.task.weights,
    }


def _opened(
    checkpoint: Checkpoint,
    task: str,
    data: str | None,
    columns: tuple[str, ...],
    device: str | None,
    options: dict[str, Any],
) -> Pipeline:
    """The pipeline of a checkpoint, with the data it is scored on in its recipe."""
    from bridgeflow.config import recipe as recipes
    from bridgeflow.inference.pipeline import Pipeline

    if data is None:
        checkpoint.check_plugins()
    pipeline = Pipeline.of(checkpoint, device)
    changes = {"data": recipes.data_section(data)} if data else {}
    recipe = pipeline.assembly.recipe.changed(**changes, columns=parse_columns(columns))
    pipeline.assembly = pipeline.assembly.scored_by(recipe)
    turned = facing(pipeline, task, checkpoint.folder, options)
    if turned is pipeline:
        pipeline.assembly = pipeline.assembly.scored_by(recipe.changed(options=options))
    return turned


def _picture(scored: list[tuple[Pipeline, Report]], names: list[Any], examples: Examples) -> Any:
    """The examples of one checkpoint, the worst and the best; or a column for each of several."""
    from bridgeflow.evaluation.runner import SHOWN, picture_of
    from bridgeflow.inference import pictures

    pipeline, report = scored[0]
    if len(scored) > 1:
        source, target = pipeline.assembly.source, pipeline.assembly.target
        rows = [
            [
                source.preview(examples.sources[i]),
                target.preview(examples.truths[i]),
                *(own.assembly.target.preview(told.results[i]) for own, told in scored),
            ]
            for i in range(min(SHOWN, report.count))
        ]
        return pictures.grid(["source", "truth", *(Path(str(name)).name for name in names)], rows)
    if not report.ranked and not report.spreads:
        return report.picture
    shown = min(SHOWN, report.count)
    parts = [
        ("first", report.picture),
        *(
            (title, picture_of(pipeline, examples, report.results, rows[:shown]))
            for title, rows in (("worst", report.ranked), ("best", report.ranked[::-1]))
            if rows
        ),
        ("uncertainty", _uncertainty(pipeline, report, examples, shown) if report.spreads else None),
    ]
    return pictures.stacked([(title, image) for title, image in parts if image is not None])


def _uncertainty(pipeline: Pipeline, report: Report, examples: Examples, shown: int) -> Any:
    """Source, result and the spread of its samples, all spreads on one scale."""
    import numpy as np

    from bridgeflow.inference import pictures
    from bridgeflow.inference.spread import heat

    spreads = report.spreads[:shown]
    largest = max(float(np.percentile(own, 99)) for own in spreads)
    source, target = pipeline.assembly.source, pipeline.assembly.target
    rows = [
        [source.preview(item), target.preview(result), heat(spread, largest)]
        for item, result, spread in zip(examples.sources[:shown], report.results[:shown], spreads, strict=True)
    ]
    return pictures.grid(["source", "mean", "spread"], rows)
