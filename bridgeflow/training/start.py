"""Starting a run: its folder, its data, its codecs; and what a dry run tells."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from bridgeflow.assembly import (
    MOST_FITTED,
    SIDES,
    Assembly,
    assemble,
    fit_codecs,
    restore_codec,
    save_codec,
)
from bridgeflow.bridge import Bridge
from bridgeflow.caching.rows import CachedRows
from bridgeflow.console import Progress, duration
from bridgeflow.data.batches import check_columns
from bridgeflow.data.rows import Rows, Split, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.evaluation.runner import Examples, NothingToScore, Report, evaluate, read_examples, read_pairs
from bridgeflow.inference import Pipeline
from bridgeflow.modality import Item
from bridgeflow.pictures import comparison
from bridgeflow.randomness import seed_of
from bridgeflow.recipe import ResolvedRecipe
from bridgeflow.training.checkpoint import Checkpoint, open_checkpoint, set_aside
from bridgeflow.training.loop import Outcome, Trainer, check_weights, make_accelerator

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
        if (folder / "checkpoints").is_dir() and any((folder / "checkpoints").iterdir()):
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
        stem = Path(recipe.name).stem if recipe.name.endswith((".yaml", ".yml")) else recipe.name.replace("/", "-")
        number = 1
        while (RUNS / f"{stem}-{number:02d}").exists():
            number += 1
        folder = RUNS / f"{stem}-{number:02d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BridgeflowError(
            f"the folder {str(folder)!r} cannot be made ({error.strerror}): choose another --output."
        ) from error
    return folder


def latest_run(task: str, runs: Path = RUNS) -> Path | None:
    """The run of a task under `runs` whose newest checkpoint was written last, or None."""
    found: list[tuple[float, Path]] = []
    for meta in runs.glob("*/checkpoints/*/meta.json"):
        try:
            if json.loads(meta.read_text(encoding="utf-8")).get("task") == task:
                found.append((meta.stat().st_mtime, meta.parents[2]))
        except (OSError, ValueError):
            continue
    return max(found)[1] if found else None


def open_rows(recipe: ResolvedRecipe, split: Split, console: Progress) -> Rows | Stream:
    """The rows of a split, once it is sure that they have the columns the task needs."""
    rows = recipe.data.open(split, lambda done, total, what: console(done, total, what))
    console.clear()
    if not isinstance(rows, Rows) or len(rows):
        check_columns(recipe.task, recipe.recipe.task, rows.columns, recipe.recipe.columns, rows.description)
    return rows


def prepare_codecs(assembly: Assembly, rows: Rows | Stream, console: Progress) -> None:
    """Fits the codecs that still need it to the first training rows that can be read; those of a cache are lent by it."""
    if isinstance(rows, CachedRows):
        rows.lend_codecs(assembly)
        return
    started = time.monotonic()
    count = 0

    def items_of(side: str) -> Iterator[Item]:
        nonlocal count
        count = 0
        for pair in read_pairs(rows, assembly.task, assembly.recipe.recipe.columns, MOST_FITTED):
            if not isinstance(pair, BridgeflowError):
                count += 1
                yield pair[0] if side == "source" else pair[1]
        if count == 0:
            raise BridgeflowError(
                f"no row of {rows.description} can be read to fit a codec to: see why with bridgeflow data check."
            )

    figures = fit_codecs(assembly, items_of, lambda done, total, what: console(done, total, what))
    for side, own in figures.items():
        name = getattr(assembly.recipe.task, side).name
        shown = "  ".join(f"{key} {value:.4g}" for key, value in own.items())
        console.say(f"fitted the {name} codec to {count:,} examples in {duration(time.monotonic() - started)}: {shown}")


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
    starts with.
    """
    torch.manual_seed(seed_of(recipe.recipe.training.seed, "codecs"))
    accelerator = make_accelerator(recipe.recipe.training, device)
    console = console or Progress()
    if not accelerator.is_main_process:
        console = Progress(quiet=True)
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
        folder = resume.folder.parents[1]
        _check_resumed(resume, rows, console)
        if isinstance(rows, CachedRows):
            rows.check(assembly)
        if accelerator.is_main_process:
            for path in set_aside(resume.folder.parent, resume.step):
                console.say(f"a later checkpoint is kept aside as {path}")
    else:
        assembly, folder = _begin(recipe, rows, output, accelerator, console, initial)
    if accelerator.is_main_process:
        (folder / "recipe.yaml").write_text(recipe.yaml(), encoding="utf-8")
    shown = _shown_examples(assembly, held_out, rows, console)
    sampler = _Sampler(assembly, shown, folder)
    trainer = Trainer(assembly, rows, folder, accelerator, console, resume, sampler, initial)
    console.say(f"{describe(assembly, trainer.bridge, rows)}   {folder}")
    outcome = trainer.run()
    report = None
    count = recipe.recipe.training.evaluate
    if outcome.interrupted is None and count and without is None:
        bridge = trainer.result_bridge()
        if accelerator.is_main_process:
            report = _score(assembly, bridge, held_out, rows, count, folder, accelerator.device, console)
    return Run(folder, outcome, report)


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
    for side in SIDES:
        codec = initial.codec(side) if initial is not None else None
        if codec is not None and assembly.modality(side).needs_fit:
            restore_codec(assembly.modality(side), codec)
    if initial is not None:
        check_weights(initial, initial.weights(), assembly.sketch_bridge().state_dict())
    if accelerator.num_processes == 1:
        prepare_codecs(assembly, rows, console)
        assembly.sketch_bridge()
        return assembly, new_folder(recipe, output)
    agreed = [""]
    if accelerator.is_main_process:
        folder = new_folder(recipe, output)
        to_fit = [side for side in SIDES if assembly.modality(side).needs_fit]
        prepare_codecs(assembly, rows, console)
        for side in to_fit:
            save_codec(assembly.modality(side), folder / "codecs" / side, {})
        agreed = [str(folder)]
    broadcast_object_list(agreed)
    folder = Path(agreed[0])
    if not accelerator.is_main_process:
        for side in SIDES:
            if (folder / "codecs" / side).is_dir():
                restore_codec(assembly.modality(side), folder / "codecs" / side)
    return assembly, folder


def _check_resumed(checkpoint: Checkpoint, rows: Rows | Stream, console: Progress) -> None:
    for sentence in checkpoint.passed_over:
        console.warn(sentence)
    before = checkpoint.meta.get("data", {}).get("fingerprint")
    if before != rows.fingerprint:
        console.warn(
            "the data are not those that the run was trained on so far: rows come in another order, and some that "
            "were held out may be trained on."
        )


@dataclass
class _Sampler:
    """Draws the sample picture of a step."""

    assembly: Assembly
    examples: Examples
    folder: Path

    def __call__(self, bridge: Bridge, step: int) -> Any:
        if not self.examples.sources:
            return None
        pipeline = Pipeline(self.assembly, bridge, next(bridge.parameters()).device)
        results = [own[0] for own in pipeline.carry(self.examples.sources)]
        image = comparison(
            self.assembly.source, self.assembly.target, self.examples.sources, self.examples.truths, results
        )
        path = self.folder / "samples" / f"{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return image


def _is_empty(rows: Rows | Stream) -> bool:
    return isinstance(rows, Rows) and len(rows) == 0


def _shown_examples(assembly: Assembly, held_out: Rows | Stream, rows: Rows | Stream, console: Progress) -> Examples:
    if _is_empty(held_out):
        console.warn("nothing is held out of so few rows: samples and figures show training rows.")
    chosen = rows if _is_empty(held_out) else held_out
    settings = assembly.recipe.recipe
    return read_examples(chosen, assembly.task, settings.columns, settings.training.samples)


def _score(
    assembly: Assembly,
    bridge: Bridge,
    held_out: Rows | Stream,
    rows: Rows | Stream,
    count: int,
    folder: Path,
    device: torch.device,
    console: Progress,
) -> Report | None:
    """The figures of a trained bridge; None, with a warning, where there is nothing to score on."""
    pipeline = Pipeline(assembly, bridge, device)
    chosen = rows if _is_empty(held_out) else held_out
    try:
        report = evaluate(
            pipeline,
            chosen,
            rows,
            count,
            on_progress=lambda done, total: console(done, total, "scoring held-out examples"),
        )
    except NothingToScore as error:
        console.warn(f"trained and saved, but not scored: {error}")
        return None
    console.clear()
    (folder / "evaluation.json").write_text(json.dumps(report.json(), indent=1), encoding="utf-8")
    if report.picture is not None:
        report.picture.save(folder / "evaluation.png")
    return report


def find_resumable(task: str, output: str | None) -> Checkpoint:
    """The checkpoint to go on from: of the run in `output`, or of the task's latest run."""
    folder = Path(output) if output is not None else latest_run(task)
    if folder is None:
        raise UsageError(f"there is no run of task {task!r} under {str(RUNS)!r} to resume: start one without --resume.")
    return open_checkpoint(folder)
