"""`bridgeflow run`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridgeflow.cli.frames import FrameWriter
from bridgeflow.cli.inputs import Input, expand, lines_on_stdin, read_one
from bridgeflow.cli.options import (
    LOADING,
    device_option,
    facing,
    find_task,
    given_checkpoint,
    json_option,
    set_sampling,
    solver_option,
    task_option,
)
from bridgeflow.cli.request import Request
from bridgeflow.cli.results import ResultWriter
from bridgeflow.cli.uncertainty import UncertaintyWriter
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import bounded, printable, tidy

if TYPE_CHECKING:
    from bridgeflow.inference.pipeline import Pipeline

MOST_HELD = 256
"""Results that wait for one another with --low-memory."""
Reader = Callable[[Any], Any]
"""Makes a source item of the value of an input."""
FRAMES = 9
MOST_LOOKED_AT = 16
"""Files that are read once more for what is to be said of them."""


@click.command(
    epilog="Examples:\n\n\b\n"
    "  bridgeflow run --task caption image.jpg\n"
    "  bridgeflow run --task depth photos/ -o depths/\n"
    '  bridgeflow run --task t2i "a small red cube" --samples 4 --seed 7\n'
    '  bridgeflow run --task t2i "a red cube" --plus "a blue sphere" --minus "a red sphere"\n'
    '  bridgeflow run --task t2i "a red cube" --interpolate "a blue sphere" --frames 24 -o way.gif\n'
    "  cat prompts.txt | bridgeflow run --task t2i -o pictures/\n"
    "  bridgeflow run --task superres small.png --trajectory flow.gif\n"
    "  bridgeflow run --task depth image.jpg --samples 8 --uncertainty\n"
    '  bridgeflow run --task recolour scene.png --with text="make the cube red"'
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
@click.option(
    "--with",
    "conditions",
    multiple=True,
    metavar="NAME=VALUE",
    help="What a task takes beside its input, the same for all; may be repeated.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of whatever is drawn.")
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Results for each input.")
@click.option(
    "--uncertainty",
    is_flag=True,
    help="Write the mean of the --samples as the result, and a map of how far they differ.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Solver steps; the checkpoint's by default.")
@solver_option
@click.option("--guidance", type=float, metavar="SCALE", help="Scale of the guidance; 1 is none.")
@click.option("--weak", metavar="DIR", help="Guide away from this weaker checkpoint of the same run, by --guidance.")
@click.option("--plus", multiple=True, metavar="INPUT", help="Add this to each input's latent; may be repeated.")
@click.option("--minus", multiple=True, metavar="INPUT", help="Take this from each input's latent; may be repeated.")
@click.option("--interpolate", metavar="INPUT", help="Go from each input to this one in --frames results.")
@click.option("--frames", type=click.IntRange(2, 500), help=f"Results of an interpolation, {FRAMES} by default.")
@click.option("--trajectory", metavar="FILE", help="Draw the flow from source to target: .gif moves, .png is a strip.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Data type (dtype) of the network; auto is that of its training where the device is faster with it.",
)
@click.option("--low-memory", is_flag=True, help="Hold encoder, network and decoder in memory one after the other.")
@device_option
@json_option
def run(
    task: str,
    inputs: tuple[str, ...],
    output: str | None,
    checkpoint: str | None,
    conditions: tuple[str, ...],
    seed: int,
    samples: int,
    uncertainty: bool,
    steps: int | None,
    solver: str | None,
    guidance: float | None,
    weak: str | None,
    plus: tuple[str, ...],
    minus: tuple[str, ...],
    interpolate: str | None,
    frames: int | None,
    trajectory: str | None,
    precision: str,
    low_memory: bool,
    device: str | None,
    as_json: bool,
) -> int:
    """Run a model on files, folders, text, or lines of stdin.

    Results go to stdout, or to files whose names are printed there. An input that cannot be read is named on
    stderr, and the others go on.
    """
    from bridgeflow.runtime.console import Progress

    console = Progress()
    with console.doing(LOADING):
        find_task(task, lambda: given_checkpoint(task, checkpoint))
        from bridgeflow import api
        from bridgeflow.conditioned import check_conditions
        from bridgeflow.inference.spread import check_poolable
    _check_options(samples, plus + minus, interpolate, frames, trajectory, uncertainty)
    given = list(inputs) or lines_on_stdin()
    with console.doing("opening the checkpoint"):
        opened = given_checkpoint(task, checkpoint)
        pipeline = api.open_pipeline(opened, console.warn, device, precision, low_memory, _shown(console))
        pipeline = facing(pipeline, task, opened.folder)
    console.say(f"using {opened.folder}")
    set_sampling(pipeline, steps, solver, guidance, weak)
    source, target = pipeline.assembly.source, pipeline.assembly.target
    beside = _conditions(conditions)
    check_conditions(list(source.conditions), beside)
    read = partial(pipeline.read, conditions=beside)
    entries = expand(given, source, console.warn)
    request = Request(
        seed,
        samples,
        tuple(read_one(value, source, "--plus", read) for value in plus),
        tuple(read_one(value, source, "--minus", read) for value in minus),
        None if interpolate is None else read_one(interpolate, source, "--interpolate", read),
        0 if interpolate is None else frames or FRAMES,
    )
    asked = {"with": beside, "plus": list(plus), "minus": list(minus), "interpolate": interpolate}
    facts = {"task": task, "checkpoint": str(opened.folder), "seed": seed, **{k: v for k, v in asked.items() if v}}
    if uncertainty:
        check_poolable(target, samples)
        writer: ResultWriter = UncertaintyWriter(target, output, len(entries) > 1, as_json, facts)
    elif request.frames:
        writer = FrameWriter(target, output, len(entries) > 1, as_json, facts, request.frames)
    else:
        writer = ResultWriter(target, output, len(entries) * samples > 1, as_json, facts)
    _warn_of_losses(source, entries, request, read, console)
    failed = _run_all(pipeline, entries, request, read, writer, trajectory, console)
    if failed < len(entries):
        writer.finish()
    if failed and len(entries) > 1:
        print(f"bridgeflow: {failed} of {len(entries)} inputs gave no result.", file=sys.stderr)
    return 1 if failed else 0


def _conditions(given: tuple[str, ...]) -> dict[str, str]:
    """The values of `--with`, by name. Raises UsageError for one without a name, or given twice."""
    found: dict[str, str] = {}
    for assignment in given:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--with {assignment!r} names nothing: write --with NAME=VALUE.")
        if name in found:
            raise click.UsageError(f"--with {name} is given twice: leave one of them out.")
        found[name] = value
    return found


def _check_options(
    samples: int,
    terms: tuple[str, ...],
    interpolate: str | None,
    frames: int | None,
    trajectory: str | None,
    uncertainty: bool,
) -> None:
    """Raises UsageError where options do not go together."""
    if trajectory is not None and not trajectory.lower().endswith((".gif", ".png")):
        raise click.UsageError(f"--trajectory {trajectory!r} must end in .gif or .png.")
    if interpolate is None:
        if frames is not None:
            raise click.UsageError("--frames counts the frames of --interpolate: give both.")
        return
    if uncertainty:
        raise click.UsageError("--interpolate does not go with --uncertainty: leave one of them out.")
    if terms:
        raise click.UsageError("--interpolate does not go with --plus or --minus: leave one of them out.")
    if samples > 1:
        raise click.UsageError("--interpolate does not go with --samples: call it again with another --seed.")
    if trajectory is not None:
        raise click.UsageError("--interpolate draws a GIF of its own: leave --trajectory out.")


def _warn_of_losses(source: Any, entries: list[Input], request: Request, read: Reader, console: Any) -> None:
    """Says what the source modality's options lose of the inputs, of files for the first of them."""
    from bridgeflow.conditioned import item_at
    from bridgeflow.modality import Modality

    def items() -> Iterator[Any]:
        for entry in entries if source.textual else entries[:MOST_LOOKED_AT]:
            # What cannot be read is named when its turn comes.
            with suppress(BridgeflowError):
                yield entry.read(read)
        yield from request.terms

    for place, part in source.parts("source").items():
        # Files are read once more for those only that have something to say.
        if type(part).advise is not Modality.advise:
            for sentence in part.advise((item_at((item, None), place) for item in items()), place):
                console.warn(sentence)


def _run_all(
    pipeline: Pipeline,
    entries: list[Input],
    request: Request,
    read: Reader,
    writer: ResultWriter,
    trajectory: str | None,
    console: Any,
) -> int:
    """Runs the inputs in groups that fit together, and counts those that gave no result."""
    size = max(1, (MOST_HELD if pipeline.stages.low_memory else pipeline.sampling.batch_size) // request.each)
    failed, warned = 0, False
    for start in range(0, len(entries), size):
        group = entries[start : start + size]
        with console.doing("reading the inputs"):
            chunk = _read(group, pipeline, request.terms, read)
        failed += len(group) - len(chunk)
        with console.doing("computing the results"):
            results = _results_of(pipeline, request, [item for _, item in chunk])
        console.clear()
        if pipeline.out_of_distribution and not warned:
            warned = True
            console.warn(_ood_warning(pipeline, [entry.name for entry, _ in chunk]))
        for place, ((entry, item), own) in enumerate(zip(chunk, results, strict=True), start + 1):
            try:
                if isinstance(own, BridgeflowError):
                    raise own
                writer.add(entry, own)
                if trajectory is not None:
                    path = Path(trajectory)
                    path = path if len(entries) == 1 else path.with_stem(f"{path.stem}-{place:02d}")
                    _draw_trajectory(pipeline, item, request, path, console)
            except BridgeflowError as error:
                failed += 1
                print(tidy(f"bridgeflow: {_told(entry, error)}"), file=sys.stderr)
    return failed


def _ood_warning(pipeline: Pipeline, names: list[str]) -> str:
    first = min(pipeline.out_of_distribution)
    name = printable(bounded(names[first], 200)) if first < len(names) else "an input"
    return (
        f"{name} is far from what this model was trained on, so expect little of its result. {pipeline.knowledge} "
        "Train one on your own data, or name another with --checkpoint."
    )


def _results_of(pipeline: Pipeline, request: Request, items: list[Any]) -> list[list[Any] | BridgeflowError]:
    """The results of each item, or why it has none: one that cannot be computed does not stop the others."""
    if not items:
        return []
    try:
        return list(request.run(pipeline, items))
    except BridgeflowError as error:
        if len(items) == 1:
            return [error]
        return [_results_of(pipeline, request, [item])[0] for item in items]


def _read(entries: list[Input], pipeline: Pipeline, terms: list[Any], read: Reader) -> list[tuple[Input, Any]]:
    """The inputs that can be read, with their items; the others are named on stderr."""
    items: list[tuple[Input, Any]] = []
    for entry in entries:
        try:
            item = entry.read(read)
            pipeline.check_terms([item, *terms])
            items.append((entry, item))
        except Exception as error:
            print(tidy(f"bridgeflow: {_told(entry, error)}"), file=sys.stderr)
    return items


def _told(entry: Input, error: Exception) -> str:
    """A sentence on an input that gave no result, which names it. Raises what is bridgeflow's own fault."""
    if isinstance(error, BridgeflowError):
        sentence = str(error)
    else:
        from bridgeflow.registry import blame

        blamed = blame.sentence_on(error)
        if blamed is None:
            raise error
        sentence = blamed
    name = printable(bounded(entry.name, 200))
    return sentence if name in sentence or entry.name in sentence else f"{name}: {sentence}"


def _shown(console: Any) -> Callable[[int, int, str], None]:
    """Shows the stages of a pipeline, with a pace where there are steps."""
    now, since, first = "", 0.0, 0

    def show(done: int, total: int, what: str) -> None:
        nonlocal now, since, first
        if what != now or done < first:
            now, since, first = what, time.monotonic(), done
        if total == 0:
            if console.live:
                console.status(what)
            return
        each = (time.monotonic() - since) / (done - first) if done > first else 0.0
        console(done, total, what, detail=f"  {each:.1f} s each" if each > 1 else "")

    return show


def _draw_trajectory(pipeline: Pipeline, item: Any, request: Request, path: Path, console: Any) -> None:
    from bridgeflow.inference.pictures import save_gif, strip

    preview = pipeline.assembly.target.preview
    frames = list(pipeline.assembly.source.previews(item).items())
    flow = pipeline.trajectory(item, request.seed, request.plus, request.minus)
    frames += [(f"t = {t:.2f}", preview(state)) for t, state in flow]
    if path.suffix.lower() == ".gif":
        save_gif(frames, path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        strip(frames).save(path)
    console.say(f"the flow is drawn in {path}")
