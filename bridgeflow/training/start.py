"""Starting a run: its folder, its data, its codecs; and what a dry run tells."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from bridgeflow.assembly import (
    SIDES,
    Assembly,
    assemble,
    fit_codecs,
    latents_known,
    restore_codec,
    save_codec,
)
from bridgeflow.bridge import Bridge
from bridgeflow.caching.rows import CachedRows
from bridgeflow.checkpoints.checkpoint import (
    Checkpoint,
    list_checkpoints,
    numbered,
    open_checkpoint,
    order_of,
    set_aside,
)
from bridgeflow.checkpoints.tensor_file import reason_of
from bridgeflow.config.recipe import ResolvedRecipe
from bridgeflow.data.advice import advice
from bridgeflow.data.batches import check_columns
from bridgeflow.data.rows import Rows, Split, Stream
from bridgeflow.data.shards import ShardStream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.evaluation.examples import read_pairs
from bridgeflow.evaluation.runner import Report
from bridgeflow.modality import Item
from bridgeflow.registry import requirements
from bridgeflow.registry.naming import plain
from bridgeflow.runtime import durable
from bridgeflow.runtime.console import Progress, duration
from bridgeflow.runtime.lock import FolderLock
from bridgeflow.runtime.precision import warn_of_slow_bf16
from bridgeflow.runtime.randomness import seed_of
from bridgeflow.settings import Settings
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.figures import Sampler, score, shown_examples
from bridgeflow.training.loop import Outcome, Trainer, check_weights
from bridgeflow.training.memory import check_memory

RUNS = Path("runs")


@dataclass
class Run:
    """A finished or interrupted run."""

    folder: Path
    outcome: Outcome
    report: Report | None


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


def new_folder(recipe: ResolvedRecipe, output: str | None) -> Path:
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
        raise _not_writable(folder, error) from error
    return folder


def _not_writable(folder: Path, error: OSError) -> BridgeflowError:
    return BridgeflowError(
        f"nothing can be written to the folder {str(folder)!r} ({error.strerror or error}): choose another --output."
    )


Hold = Callable[[Path], None]
"""Takes a run's folder for this process alone; raises BridgeflowError where another one has it."""


def _holder(held: ExitStack, console: Progress) -> Hold:
    def hold(folder: Path) -> None:
        try:
            held.enter_context(FolderLock(folder, "the run in", console.warn))
            for place in (folder, folder / "checkpoints"):
                durable.remove_leftovers(place)
        except OSError as error:
            raise _not_writable(folder, error) from error

    return hold


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


def open_rows(recipe: ResolvedRecipe, split: Split, console: Progress) -> Rows | Stream:
    """The rows of a split, once it is sure that they have the columns the task needs."""
    with console.doing(f"opening the {'training' if split == 'train' else 'held-out'} data"):
        return _with_columns(recipe, recipe.data.open(split, console), console)


def open_first_rows(recipe: ResolvedRecipe, count: int, console: Progress) -> Rows | Stream:
    """At least the first `count` training rows, as `open_rows` gives them, where no others will be read."""
    with console.doing("opening the training data"):
        return _with_columns(recipe, recipe.data.open_first(count, console), console)


def _with_columns(recipe: ResolvedRecipe, rows: Rows | Stream, console: Progress) -> Rows | Stream:
    if isinstance(rows, ShardStream):
        rows.look_for([recipe.recipe.columns.get(column, column) for column in recipe.task.columns])
    console.clear()
    if isinstance(rows, CachedRows):
        rows.check_task(recipe.recipe.task)
    if not isinstance(rows, Rows) or len(rows):
        check_columns(recipe.task, recipe.recipe.task, rows.columns, recipe.recipe.columns, rows.description)
    return rows


def prepare_codecs(assembly: Assembly, rows: Rows | Stream, console: Progress) -> None:
    """Fits the codecs that still need it to the first training rows that can be read; a cache lends its own."""
    if isinstance(rows, CachedRows):
        rows.lend_codecs(assembly)
        return
    started = time.monotonic()
    count = 0

    def items_of(side: str) -> Iterator[Item]:
        nonlocal count
        count = 0
        most = assembly.modality(side).most_fitted
        for pair in read_pairs(rows, assembly.task, assembly.recipe.recipe.columns, most):
            if not isinstance(pair, BridgeflowError):
                count += 1
                yield pair[0] if side == "source" else pair[1]
        if count == 0:
            raise BridgeflowError(
                f"no row of {rows.description} can be read to fit a codec to: see why with bridgeflow data check."
            )

    with console.doing("fitting the codecs"):
        figures = fit_codecs(assembly, items_of, lambda done, total, what: console(done, total, what))
    for side, own in figures.items():
        name = getattr(assembly.recipe.task, side).name
        shown = "  ".join(f"{key} {value:.4g}" for key, value in own.items())
        console.say(f"fitted the {name} codec to {count:,} examples in {duration(time.monotonic() - started)}: {shown}")


def warn_of_losses(assembly: Assembly, rows: Rows | Stream, console: Progress) -> None:
    """Says what the modalities' options lose of the data; nothing of a cache, which is encoded already."""
    if not isinstance(rows, CachedRows):
        if console.live:
            console.status("looking at the first rows")
        for sentence in advice(rows, assembly.task, assembly.recipe.recipe.columns):
            console.warn(sentence)
        console.clear()


def take_codecs(assembly: Assembly, initial: Checkpoint) -> None:
    """Gives the codecs that still need fitting those of a checkpoint to start from."""
    for side in SIDES:
        codec = initial.codec(side)
        if codec is not None and assembly.modality(side).needs_fit:
            restore_codec(assembly.modality(side), codec)


def describe(assembly: Assembly, bridge: Bridge, rows: Rows | Stream) -> str:
    """One line: what is trained on what."""
    recipe = assembly.recipe
    trained = sum(p.numel() for p in bridge.parameters() if p.requires_grad)
    use = recipe.task
    return (
        f"{recipe.name}   {use.source.name} -> {use.target.name}   {recipe.recipe.network['name']} "
        f"{trained / 1e6:.1f}M   {rows.description}"
    )


def train(
    recipe: ResolvedRecipe,
    output: str | None = None,
    resume: Checkpoint | None = None,
    device: str | None = None,
    console: Progress | None = None,
    initial: Checkpoint | None = None,
) -> Run:
    """Trains a recipe, samples, scores, and returns how it went.

    resume: the run's own checkpoint to go on from. initial: a checkpoint whose weights, and fitted codecs, a new run
    starts with. The run's folder is this run's alone until it ends.
    """
    console = console or Progress()
    with ExitStack() as held:
        return _train(recipe, output, resume, device, console, initial, _holder(held, console))


def _train(
    recipe: ResolvedRecipe,
    output: str | None,
    resume: Checkpoint | None,
    device: str | None,
    console: Progress,
    initial: Checkpoint | None,
    hold: Hold,
) -> Run:
    torch.manual_seed(seed_of(recipe.recipe.training.seed, "codecs"))
    with console.doing("preparing the device"):
        accelerator = make_accelerator(recipe.recipe.training, device)
    if not accelerator.is_main_process:
        console = Progress(quiet=True)
    else:
        _claim(output, resume, hold)
    if accelerator.is_main_process:
        fitted = resume is not None or initial is not None or recipe.recipe.data["name"] == "cache"
        warn_of_slow_bf16(accelerator.device, console.warn, **computed_sections(recipe, fitted))
    precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    recipe = recipe.changed(training={"precision": precision})
    with accelerator.main_process_first():
        rows = open_rows(recipe, "train", console)
        held_out = open_rows(recipe, "held_out", console)
    without = held_out.without_items if isinstance(held_out, CachedRows) else None
    if without is not None:
        console.warn(f"no samples are drawn and no figures made: {without}")
    if resume is not None:
        assembly = assemble(recipe, {side: f for side in SIDES if (f := resume.codec(side))})
        check_memory(assembly, accelerator, console)
        folder = resume.folder.parents[1]
        _check_resumed(resume, rows, accelerator.num_processes, console)
        if isinstance(rows, CachedRows):
            rows.check(assembly)
        if accelerator.is_main_process:
            for path in set_aside(resume.folder.parent, resume.step):
                console.say(f"a later checkpoint is kept aside as {path}")
    else:
        assembly, folder = _begin(recipe, rows, output, accelerator, console, initial)
        if accelerator.is_main_process and output is None:
            hold(folder)
    if accelerator.is_main_process:
        _keep(folder / "recipe.yaml", recipe.yaml())
    with console.doing("reading the examples of the sample pictures"):
        shown = shown_examples(assembly, held_out, rows, console)
    sampler = Sampler(assembly, shown, folder, console)
    with console.doing("building the network"):
        trainer = Trainer(assembly, rows, folder, accelerator, console, resume, sampler, initial)
    console.say(f"{describe(assembly, trainer.bridge, rows)}   {folder}")
    outcome = _run(trainer, folder)
    report = None
    count = recipe.recipe.training.evaluate
    if outcome.interrupted is None and count and without is None:
        bridge = trainer.result_bridge()
        if accelerator.is_main_process:
            report = score(assembly, bridge, held_out, rows, count, folder, accelerator.device, console)
    return Run(folder, outcome, report)


def computed_sections(recipe: ResolvedRecipe, fitted: bool) -> dict[str, Settings]:
    """The sections of a recipe whose number types a run computes in, by key; those of codecs unless they are fitted."""
    options = {"source": recipe.source_options, "target": recipe.target_options}
    codecs = {side: own for side, own in options.items() if not fitted and side not in recipe.recipe.codecs}
    return {"training": recipe.recipe.training, **codecs}


def _claim(output: str | None, resume: Checkpoint | None, hold: Hold) -> None:
    """Makes sure that the run can be written, before anything slow is done for it."""
    if resume is not None:
        hold(resume.folder.parents[1])
        return
    check_output(output)
    if output is not None:
        hold(Path(output))
        # Another process may have had it until now.
        check_output(output)
        return
    try:
        durable.check_writable(RUNS)
    except OSError as error:
        raise _not_writable(RUNS, error) from error


def _keep(path: Path, text: str) -> None:
    try:
        durable.write_whole(path, text)
    except OSError as error:
        raise _not_writable(path.parent, error) from error


def _run(trainer: Trainer, folder: Path) -> Outcome:
    try:
        return trainer.run()
    except RuntimeError as error:
        # Raised by torch's own signal handler, wherever the training is at that moment.
        if "DataLoader worker" not in str(error):
            raise
        saved = list_checkpoints(folder / "checkpoints")
        again = f"go on from step {int(saved[-1].name):,} with --resume" if saved else "start again"
        raise BridgeflowError(
            f"a process that reads rows ahead was killed at step {trainer.step + 1:,}, as where memory is short: "
            f"{again}, with fewer training.workers where it comes back."
        ) from error


def _begin(
    recipe: ResolvedRecipe,
    rows: Rows | Stream,
    output: str | None,
    accelerator: Accelerator,
    console: Progress,
    initial: Checkpoint | None,
) -> tuple[Assembly, Path]:
    """The assembly with fitted codecs and the folder of a new run, the same on every process."""
    check_output(output)
    assembly = assemble(recipe)
    if initial is not None:
        take_codecs(assembly, initial)
        check_weights(initial, initial.weights(), assembly.sketch_bridge().state_dict())
    known = latents_known(assembly)
    if known:
        # A network that does not suit, or does not fit, is told before minutes of fitting.
        if initial is None and not isinstance(rows, CachedRows):
            assembly.sketch_bridge()
        check_memory(assembly, accelerator, console)
    if accelerator.is_main_process:
        warn_of_losses(assembly, rows, console)
    if accelerator.num_processes == 1:
        prepare_codecs(assembly, rows, console)
        assembly.sketch_bridge()
        if not known:
            check_memory(assembly, accelerator, console)
        return assembly, new_folder(recipe, output)
    agreed = [""]
    if accelerator.is_main_process:
        folder = new_folder(recipe, output)
        to_fit = [side for side in SIDES if assembly.modality(side).needs_fit]
        prepare_codecs(assembly, rows, console)
        try:
            for side in to_fit:
                save_codec(assembly.modality(side), folder / "codecs" / side, {})
        except (OSError, SafetensorError) as error:
            raise BridgeflowError(
                f"the codecs cannot be written to {str(folder)!r} ({reason_of(error)}): free some space or choose "
                "another --output."
            ) from error
        agreed = [str(folder)]
    broadcast_object_list(agreed)
    folder = Path(agreed[0])
    if not accelerator.is_main_process:
        for side in SIDES:
            if (folder / "codecs" / side).is_dir():
                restore_codec(assembly.modality(side), folder / "codecs" / side)
    return assembly, folder


def _check_resumed(checkpoint: Checkpoint, rows: Rows | Stream, processes: int, console: Progress) -> None:
    for sentence in checkpoint.passed_over:
        console.warn(sentence)
    before = checkpoint.meta.get("data", {}).get("fingerprint")
    if before != rows.fingerprint:
        console.warn(
            "the data are not those that the run was trained on so far: rows come in another order, and some that "
            "were held out may be trained on."
        )
    if checkpoint.tuned:
        console.warn(
            "sampling was tuned for the weights so far; later checkpoints sample as the recipe says: call bridgeflow "
            "tune-sampler again when training is done."
        )
    processes_before = int(checkpoint.meta.get("processes", processes))
    if isinstance(rows, ShardStream) and processes != processes_before:
        console.warn(
            f"{processes} processes go on where {processes_before} stopped: each reads other shards of the stream, so "
            "rows come in another order, and as many as the shuffle buffers hold may come twice in this epoch."
        )


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
