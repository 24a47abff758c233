"""What a run would take, and a few of its steps where they fit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from bridgeflow.assembly import Assembly, assemble, latents_known
from bridgeflow.assembly.preparing import open_first_rows, open_rows, prepare_codecs
from bridgeflow.checkpoints.checkpoint import Checkpoint
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.batches import batches
from bridgeflow.data.encoding import latent
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.console import Progress
from bridgeflow.runtime.precision import warn_of_slow_bf16
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.estimate import gigabytes, global_batch
from bridgeflow.training.initial import check_weights
from bridgeflow.training.loop import Trainer
from bridgeflow.training.memory import expected_memory, fits, free_memory, peak_memory, savings
from bridgeflow.training.start import computed_sections, take_codecs


def dry_run(
    recipe: Recipe,
    device: str | None,
    console: Progress,
    steps: int = 5,
    initial: Checkpoint | None = None,
) -> dict[str, Any]:
    """Tells what a run would take, and tries a few steps on real data where they fit. Writes nothing.

    `mode` is 'real' where steps were tried. It is 'meta' where the run does not fit into this machine's memory, or its
    data are not there, and 'unfitted' where a codec would have to be fitted for a step: shapes were then tried without
    numbers, and neither data nor codecs were needed. `initial` is a checkpoint whose weights have to fit.
    """
    accelerator = make_accelerator(recipe.training, device)
    warn_of_slow_bf16(accelerator.device, console.warn, **computed_sections(recipe, fitted=initial is not None))
    assembly = assemble(recipe)
    if initial is not None:
        check_weights(initial, initial.weights(), assembly.sketch_bridge().state_dict())
        take_codecs(assembly, initial)
    if recipe.data_name == "cache":
        prepare_codecs(assembly, open_rows(recipe, "train", console), console)
    training = recipe.training
    unfitted = _unfitted(assembly)
    facts: dict[str, Any] = {"recipe": recipe.tree()}
    if unfitted and not latents_known(assembly):
        return {**facts, "mode": "unfitted", "verdict": f"nothing is known before fitting. {unfitted}"}
    facts |= {
        "source_latent": str(assembly.source.latent),
        **{f"{name}_latent": str(own.latent) for name, own in assembly.source.conditions.items()},
        "target_latent": str(assembly.target.latent),
        "global_batch": global_batch(training.batch_size, training.accumulation, accelerator.num_processes),
        "device": str(accelerator.device),
        "precision": "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision,
    }
    expected, free = expected_memory(assembly, accelerator), free_memory(accelerator.device)
    needs = "how much memory it needs cannot be estimated"
    if expected is not None:
        needs = f"a process needs about {gigabytes(expected.total)}, and {gigabytes(free)} are free"
        facts["fits"] = fits(expected, free, accelerator)
        facts["trainable_parameters"] = expected.trainable
        facts["parameters"] = expected.parameters
        facts["memory"] = {name: gigabytes(count) for name, count in expected.memory.items()}
        facts["memory_needed"] = f"about {gigabytes(expected.total)} a process, without the frozen codecs"
        facts["memory_free"] = gigabytes(free)
    if expected is not None and not facts["fits"]:
        verdict = (
            f"shapes agree, but a run does not fit here: {needs}. No step was tried, and neither data nor codecs were "
            f"loaded. Less is taken with {savings(assembly, expected)}."
        )
        return {**facts, "mode": "meta", "data": _where(recipe, console), "verdict": verdict}
    if unfitted:
        verdict = f"shapes agree: {needs}. {unfitted}"
        return {**facts, "mode": "unfitted", "data": _where(recipe, console), "verdict": verdict}
    try:
        rows = open_first_rows(recipe, (steps + 1) * training.batch_size * training.accumulation, console)
    except BridgeflowError as error:
        if expected is None:
            raise
        console.warn(str(error))
        verdict = f"shapes agree: {needs}; but no step was tried, since the data cannot be opened."
        return {**facts, "mode": "meta", "data": f"not there: {error}", "verdict": verdict}
    return {**facts, "mode": "real", **_tried(recipe, assembly, rows, accelerator, console, steps)}


def _unfitted(assembly: Assembly) -> str:
    """A sentence on the codecs that training fits before its first step; empty where there are none."""
    places = [place for place, own in assembly.parts.items() if own.needs_fit]
    if not places:
        return ""
    names = " and ".join(assembly.recipe.uses[place].name for place in places)
    return f"Training fits the codec of {names} first, which was left out here, and so no step was tried."


def _where(recipe: Recipe, console: Progress) -> str:
    """What the data are, where that costs no more than a look at the disk."""
    if not recipe.data.at_hand:
        return f"not opened ({recipe.data_name})"
    try:
        return open_rows(recipe, "train", console).description
    except BridgeflowError as error:
        return f"not there: {error}"


def _tried(
    recipe: Recipe,
    assembly: Assembly,
    rows: Rows | Stream,
    accelerator: Accelerator,
    console: Progress,
    steps: int,
) -> dict[str, Any]:
    """What a few real steps show."""
    trainer = Trainer(assembly, rows, Path("."), accelerator, console)
    data = batches(rows, assembly.task, recipe.columns, trainer.settings.batch_size, trainer.settings.seed)
    first = next(data)
    source = latent(assembly.source, first.source, trainer.device)
    target = latent(assembly.target, first.target, trainer.device)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        trainer._train_step(data)
        seconds.append(time.perf_counter() - start)
        trainer.step += 1
    per_step = sorted(seconds[1:])[len(seconds[1:]) // 2]
    bridge, peak = trainer.bridge, peak_memory(trainer.device)
    frozen = sum(p.numel() for side in (assembly.source, assembly.target) for p in side.parameters())
    return {
        "fits": True,
        "source_batch": list(source.mean.shape),
        "target_batch": list(target.mean.shape),
        "trainable_parameters": sum(p.numel() for p in bridge.parameters() if p.requires_grad),
        "network_parameters": sum(p.numel() for p in bridge.network.parameters()),
        "source_encoder_parameters": sum(p.numel() for p in bridge.source_encoder.parameters()),
        "frozen_parameters": frozen,
        "data": rows.description,
        "peak_memory_mb": None if peak is None else round(peak / 2**20),
        "seconds_per_step": round(per_step, 4),
        "hours": round(per_step * recipe.training.steps / 3600, 3),
    }
