"""Starting a run: its folder, its data, its codecs; and what a dry run prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from bridgeflow.assembly import Assembly, assemble, latents_known
from bridgeflow.assembly.codec_files import restore_codec, save_codec
from bridgeflow.assembly.preparing import open_rows, prepare_codecs, warn_of_losses
from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints import best
from bridgeflow.checkpoints.checkpoint import Checkpoint, list_checkpoints
from bridgeflow.checkpoints.runs import RUNS, check_output, new_folder, not_writable
from bridgeflow.checkpoints.tensor_file import reason_of
from bridgeflow.checkpoints.writing import move_later_aside
from bridgeflow.config.recipe import Recipe
from bridgeflow.config.trackers import trackers_of
from bridgeflow.data.rows import EncodedRows, Rows, Stream
from bridgeflow.data.shards import ShardStream
from bridgeflow.errors import BridgeflowError
from bridgeflow.evaluation.runner import Report
from bridgeflow.runtime import durable
from bridgeflow.runtime.console import Progress
from bridgeflow.runtime.lock import FolderLock
from bridgeflow.runtime.precision import warn_of_slow_bf16
from bridgeflow.runtime.randomness import seed_of
from bridgeflow.settings import Settings
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.figures import Sampler, score, shown_examples
from bridgeflow.training.initial import check_weights
from bridgeflow.training.loop import Outcome, Trainer
from bridgeflow.training.memory import check_memory
from bridgeflow.training.trackers import Trackers
from bridgeflow.training.validation import Validation, read_held_out


@dataclass
class Run:
    """A finished or interrupted run."""

    folder: Path
    outcome: Outcome
    report: Report | None


Hold = Callable[[Path], None]
"""Takes a run's folder for this process alone; raises BridgeflowError where another one has it."""


def _holder(held: ExitStack, console: Progress) -> Hold:
    def hold(folder: Path) -> None:
        try:
            held.enter_context(FolderLock(folder, "the run in", console.warn))
            for place in (folder, folder / "checkpoints"):
                durable.remove_leftovers(place)
        except OSError as error:
            raise not_writable(folder, error) from error

    return hold


def take_codecs(assembly: Assembly, initial: Checkpoint) -> None:
    """Gives the codecs that still need fitting those of a checkpoint to start from."""
    for place, modality in assembly.parts.items():
        codec = initial.codec(place)
        if codec is not None and modality.needs_fit:
            restore_codec(modality, codec)


def describe(assembly: Assembly, bridge: Bridge, rows: Rows | Stream) -> str:
    """One line: what is trained on what."""
    recipe = assembly.recipe
    trained = sum(p.numel() for p in bridge.parameters() if p.requires_grad)
    use = recipe.task
    sources = ", ".join([use.source.name, *(own.name for own in use.conditions.values())])
    return (
        f"{recipe.name}   {sources} -> {use.target.name}   {recipe.network_name} "
        f"{trained / 1e6:.1f}M   {rows.description}"
    )


def train(
    recipe: Recipe,
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
    recipe: Recipe,
    output: str | None,
    resume: Checkpoint | None,
    device: str | None,
    console: Progress,
    initial: Checkpoint | None,
    hold: Hold,
) -> Run:
    torch.manual_seed(seed_of(recipe.training.seed, "codecs"))
    with console.doing("preparing the device"):
        accelerator = make_accelerator(recipe.training, device)
    trackers = None
    if accelerator.is_main_process:
        trackers = Trackers.built(trackers_of(recipe), console.warn)
        _claim(output, resume, hold)
        fitted = resume is not None or initial is not None or recipe.data_name == "cache"
        warn_of_slow_bf16(accelerator.device, console.warn, **computed_sections(recipe, fitted))
    else:
        console = Progress(quiet=True)
    precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    recipe = recipe.changed(training={"precision": precision})
    with accelerator.main_process_first():
        rows = open_rows(recipe, "train", console)
        held_out = open_rows(recipe, "held_out", console)
    without = held_out.without_items if isinstance(held_out, EncodedRows) else None
    if without is not None:
        console.warn(f"no samples are drawn and no figures made: {without}")
    if resume is not None:
        assembly, folder = _go_on(recipe, rows, resume, accelerator, console)
    else:
        assembly, folder = _begin(recipe, rows, output, accelerator, console, initial)
        if accelerator.is_main_process and output is None:
            hold(folder)
    if accelerator.is_main_process:
        _keep(folder / "recipe.yaml", recipe.yaml())
    trainer = _trainer(assembly, rows, held_out, folder, accelerator, console, resume, initial, trackers)
    outcome = _run(trainer, folder)
    report = None
    count = recipe.training.evaluate
    if outcome.interrupted is None and count and without is None:
        bridge = trainer.result_bridge()
        if accelerator.is_main_process:
            report = score(assembly, bridge, held_out, rows, count, folder, accelerator.device, console)
    return Run(folder, outcome, report)


def _trainer(
    assembly: Assembly,
    rows: Rows | Stream,
    held_out: Rows | Stream,
    folder: Path,
    accelerator: Accelerator,
    console: Progress,
    resume: Checkpoint | None,
    initial: Checkpoint | None,
    trackers: Trackers | None,
) -> Trainer:
    """What trains, with what it shows and measures of held-out rows."""
    with console.doing("reading the held-out examples"):
        sampler = Sampler(assembly, shown_examples(assembly, held_out, rows, console), folder, console)
        pairs = read_held_out(assembly, held_out) if accelerator.is_main_process else []
    validation = Validation(assembly, pairs, accelerator.autocast) if pairs else None
    with console.doing("building the network"):
        trainer = Trainer(assembly, rows, folder, accelerator, console, resume, sampler, initial, validation, trackers)
    console.say(f"{describe(assembly, trainer.bridge, rows)}   {folder}")
    return trainer


def _go_on(
    recipe: Recipe, rows: Rows | Stream, resume: Checkpoint, accelerator: Accelerator, console: Progress
) -> tuple[Assembly, Path]:
    """The assembly of a run that goes on, and its folder, in which nothing is of a later step any more."""
    assembly = assemble(recipe, resume.codecs(recipe))
    check_memory(assembly, accelerator, console)
    _check_resumed(resume, rows, accelerator.num_processes, console)
    if isinstance(rows, EncodedRows):
        rows.check(assembly)
    saved = resume.folder.parent
    if accelerator.is_main_process:
        for path in move_later_aside(saved, resume.step):
            console.say(f"a later checkpoint is kept aside as {path}")
        if best.is_chosen(recipe.training):
            _set_best(saved, resume.step, console)
    return assembly, saved.parent


def _set_best(saved: Path, step: int, console: Progress) -> None:
    try:
        aside = best.go_on_from(saved, step)
    except OSError as error:
        console.warn(f"the best checkpoint cannot be kept in {str(saved)!r} ({error.strerror or error}).")
        return
    if aside is not None:
        console.say(f"the best checkpoint, which is of a later step, is kept aside as {aside}")


def computed_sections(recipe: Recipe, fitted: bool) -> dict[str, Settings]:
    """The sections of a recipe whose dtypes a run computes in, by key; those of codecs unless they are fitted."""
    options = recipe.modality_options
    codecs = {key: own for key, own in options.items() if not fitted and key not in recipe.keys.codecs}
    return {"training": recipe.training, **codecs}


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
        raise not_writable(RUNS, error) from error


def _keep(path: Path, text: str) -> None:
    try:
        durable.write_whole(path, text)
    except OSError as error:
        raise not_writable(path.parent, error) from error


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
    recipe: Recipe,
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
        # A network that does not suit, or does not fit, is refused before minutes of fitting.
        if initial is None and not isinstance(rows, EncodedRows):
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
        to_fit = {place: own for place, own in assembly.parts.items() if own.needs_fit}
        prepare_codecs(assembly, rows, console)
        try:
            for place, modality in to_fit.items():
                save_codec(modality, folder / "codecs" / place, {})
        except (OSError, SafetensorError) as error:
            raise BridgeflowError(
                f"the codecs cannot be written to {str(folder)!r} ({reason_of(error)}): free some space or choose "
                "another --output."
            ) from error
        agreed = [str(folder)]
    broadcast_object_list(agreed)
    folder = Path(agreed[0])
    if not accelerator.is_main_process:
        for place, modality in assembly.parts.items():
            if (folder / "codecs" / place).is_dir():
                restore_codec(modality, folder / "codecs" / place)
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
