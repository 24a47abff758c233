"""`bridgeflow run`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridgeflow.cli.inputs import Input, expand, lines_on_stdin
from bridgeflow.cli.options import check_task, device_option, find_task, json_option, task_option
from bridgeflow.cli.results import ResultWriter
from bridgeflow.errors import BridgeflowError

if TYPE_CHECKING:
    from bridgeflow.inference import Pipeline

MOST_STEPS = 10_000


@click.command(
    epilog="Examples:\n\n\b\n"
    "  bridgeflow run --task caption image.jpg\n"
    "  bridgeflow run --task depth photos/ -o depths/\n"
    '  bridgeflow run --task t2i "a small red cube" --samples 4 --seed 7\n'
    "  cat prompts.txt | bridgeflow run --task t2i -o pictures/\n"
    "  bridgeflow run --task superres small.png --trajectory flow.gif"
)
@task_option()
@click.argument("inputs", nargs=-1, metavar="[FILE|FOLDER|TEXT]...")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File for one result, folder for many; the current folder by default.",
)
@click.option("--checkpoint", metavar="DIR", help="Run or checkpoint; the task's latest run under runs/ by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of whatever is drawn.")
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Results for each input.")
@click.option("--steps", type=click.IntRange(min=1), help="Solver steps; the checkpoint's by default.")
@click.option("--solver", type=click.Choice(["euler", "midpoint", "heun", "ab2", "dopri5"]), help="Solver.")
@click.option("--guidance", type=float, metavar="SCALE", help="Scale of the guidance; 1 is none.")
@click.option("--trajectory", metavar="FILE.gif", help="Draw the flow from source to target.")
@device_option
@json_option
def run(
    task: str,
    inputs: tuple[str, ...],
    output: str | None,
    checkpoint: str | None,
    seed: int,
    samples: int,
    steps: int | None,
    solver: str | None,
    guidance: float | None,
    trajectory: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Carry files, folders, text, or lines on stdin.

    Results go to stdout, or to files whose names are printed there. An input that cannot be read is named on
    stderr, and the others go on.
    """
    find_task(task)
    if trajectory is not None and not trajectory.lower().endswith(".gif"):
        raise click.UsageError(f"--trajectory {trajectory!r} must end in .gif.")
    given = list(inputs) or lines_on_stdin()
    from bridgeflow.console import Progress
    from bridgeflow.inference import Pipeline

    console = Progress()
    folder = _find_checkpoint(task, checkpoint)
    pipeline = Pipeline.open(folder, device)
    check_task(pipeline.assembly.recipe.recipe.task, task, folder)
    console.say(f"using {folder}")
    _set_sampling(pipeline, steps, solver, guidance)
    entries = expand(given, pipeline.assembly.source)
    many = len(entries) * samples > 1
    facts = {"task": task, "checkpoint": str(folder), "seed": seed}
    writer = ResultWriter(pipeline.assembly.target, output, many, as_json, facts)
    size = max(1, pipeline.sampling.batch_size // samples)
    failed = 0
    drawn = Path(trajectory) if trajectory is not None else None
    for start in range(0, len(entries), size):
        chunk = _read(entries[start : start + size], pipeline)
        failed += len(entries[start : start + size]) - len(chunk)
        results = pipeline.carry(
            [item for _, item in chunk], samples, seed, on_progress=_shown(console, start, len(entries))
        )
        console.clear()
        for place, ((entry, item), own) in enumerate(zip(chunk, results, strict=True), start + 1):
            try:
                writer.add(entry, own)
                if drawn is not None:
                    one = len(entries) == 1
                    _draw_trajectory(
                        pipeline, item, drawn if one else drawn.with_stem(f"{drawn.stem}-{place:02d}"), seed, console
                    )
            except BridgeflowError as error:
                failed += 1
                print(f"bridgeflow: {error}", file=sys.stderr)
    if failed < len(entries):
        writer.finish()
    if failed and len(entries) > 1:
        print(f"bridgeflow: {failed} of {len(entries)} inputs gave no result.", file=sys.stderr)
    return 1 if failed else 0


def _read(entries: list[Input], pipeline: Pipeline) -> list[tuple[Input, Any]]:
    """The inputs that can be read and carried, with their items; the others are named on stderr."""
    items: list[tuple[Input, Any]] = []
    for entry in entries:
        try:
            item = pipeline.assembly.source.read(entry.value)
            pipeline.assembly.task.split(item)
            items.append((entry, item))
        except BridgeflowError as error:
            print(f"bridgeflow: {error}", file=sys.stderr)
    return items


def _shown(console: Any, start: int, count: int) -> Any:
    def show(done: int, total: int) -> None:
        detail = f" of input {start + 1:,}/{count:,}" if count > 1 else ""
        console(done, total, "pieces carried", "pieces", detail)

    return show


def _find_checkpoint(task: str, given: str | None) -> Path:
    from bridgeflow.training.checkpoint import open_checkpoint
    from bridgeflow.training.start import latest_run

    folder = Path(given) if given is not None else latest_run(task)
    if folder is None:
        raise BridgeflowError(
            f"there is no checkpoint of task {task!r} under 'runs': train one with bridgeflow train --task {task}, "
            "or name one with --checkpoint."
        )
    if not folder.is_dir():
        raise BridgeflowError(f"there is no folder {str(folder)!r}: --checkpoint takes a run or a checkpoint of one.")
    return open_checkpoint(folder).folder


def _set_sampling(pipeline: Pipeline, steps: int | None, solver: str | None, guidance: float | None) -> None:
    sampling = pipeline.sampling
    method = {**({"method": solver} if solver else {}), **({"steps": steps} if steps else {})}
    guide = {} if guidance is None else {"kind": "none" if guidance == 1 else "indicator", "scale": guidance}
    if guide.get("kind") == "indicator" and pipeline.assembly.recipe.recipe.null_rate == 0:
        raise click.UsageError("--guidance needs a model trained with null_rate above 0; this one was trained without.")
    if steps is not None and steps > MOST_STEPS:
        raise click.UsageError(f"--steps {steps} is more than the {MOST_STEPS:,} that a solver takes.")
    if guidance is not None and not math.isfinite(guidance):
        raise click.UsageError(f"--guidance {guidance} is not a number: 1 is none, 2 to 7 are usual.")
    pipeline.sampling = sampling.model_copy(
        update={
            "solver": sampling.solver.model_copy(update=method),
            "guidance": sampling.guidance.model_copy(update=guide),
        }
    )


def _draw_trajectory(pipeline: Pipeline, item: Any, path: Path, seed: int, console: Any) -> None:
    from bridgeflow.pictures import save_gif

    preview = pipeline.assembly.target.preview
    frames = [("source", pipeline.assembly.source.preview(item))]
    frames += [(f"t = {t:.2f}", preview(state)) for t, state in pipeline.trajectory(item, seed)]
    save_gif(frames, path)
    console.say(f"the flow is drawn in {path}")
