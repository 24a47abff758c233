"""What a run would take, and a few of its steps where they fit."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from bridgeflow.assembly import Assembly, assemble
from bridgeflow.console import Progress
from bridgeflow.data.batches import batches
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.encoding import latent
from bridgeflow.errors import BridgeflowError
from bridgeflow.recipe import ResolvedRecipe
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.checkpoint import Checkpoint
from bridgeflow.training.estimate import MARGIN, Estimate, estimate, free_memory, gigabytes, global_batch
from bridgeflow.training.loop import Trainer, check_weights
from bridgeflow.training.start import open_rows, prepare_codecs


def dry_run(
    recipe: ResolvedRecipe,
    device: str | None,
    console: Progress,
    steps: int = 5,
    initial: Checkpoint | None = None,
) -> dict[str, Any]:
    """Tells what a run would take, and tries a few steps on real data where they fit. Writes nothing.

    `mode` is 'real' where steps were tried. It is 'meta' where the run does not fit into this machine's memory, or its
    data are not there: shapes were then tried without numbers, and neither data nor codecs were needed. `initial` is a
    checkpoint whose weights have to fit.
    """
    accelerator = make_accelerator(recipe.recipe.training, device)
    precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    assembly = assemble(recipe)
    if initial is not None:
        check_weights(initial, initial.weights(), assembly.sketch_bridge().state_dict())
    expected = _estimate(assembly, precision)
    training = recipe.recipe.training
    facts: dict[str, Any] = {
        "recipe": recipe.tree(),
        "source_latent": str(assembly.source.latent),
        "target_latent": str(assembly.target.latent),
        "global_batch": global_batch(training.batch_size, training.accumulation, accelerator.num_processes),
        "device": str(accelerator.device),
        "precision": precision,
    }
    if expected is None:
        rows = open_rows(recipe, "train", console)
        return {**facts, "mode": "real", **_tried(recipe, assembly, rows, accelerator, console, steps)}
    free = free_memory(accelerator.device)
    fits = expected.total <= MARGIN * free
    facts["trainable_parameters"] = expected.trainable
    facts["parameters"] = expected.parameters
    facts["memory"] = {name: gigabytes(count) for name, count in expected.memory.items()}
    facts["memory_needed"] = f"about {gigabytes(expected.total)} a process, without the frozen codecs"
    facts["memory_free"] = gigabytes(free)
    needs = f"a process needs about {gigabytes(expected.total)}, and {gigabytes(free)} are free"
    if not fits:
        verdict = (
            f"shapes agree, but a run does not fit here: {needs}. No step was tried, and neither data nor codecs were "
            "loaded. A smaller training.batch_size with more training.accumulation takes less."
        )
        return {**facts, "mode": "meta", "fits": False, "data": _where(recipe, console), "verdict": verdict}
    try:
        rows = open_rows(recipe, "train", console)
    except BridgeflowError as error:
        console.warn(str(error))
        verdict = f"shapes agree: {needs}; but no step was tried, since the data cannot be opened."
        return {**facts, "mode": "meta", "fits": True, "data": f"not there: {error}", "verdict": verdict}
    return {**facts, "mode": "real", **_tried(recipe, assembly, rows, accelerator, console, steps)}


def _estimate(assembly: Assembly, precision: str) -> Estimate | None:
    try:
        return estimate(assembly, precision)
    except RuntimeError as error:
        # A network that looks at its numbers cannot run without any; other faults are the recipe's.
        if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
            return None
        raise


def _where(recipe: ResolvedRecipe, console: Progress) -> str:
    """What the data are, where that costs no more than a look at the disk."""
    if not recipe.data.at_hand:
        return f"not opened ({recipe.recipe.data['name']})"
    try:
        return open_rows(recipe, "train", console).description
    except BridgeflowError as error:
        return f"not there: {error}"


def _tried(
    recipe: ResolvedRecipe,
    assembly: Assembly,
    rows: Rows | Stream,
    accelerator: Accelerator,
    console: Progress,
    steps: int,
) -> dict[str, Any]:
    """What a few real steps show."""
    prepare_codecs(assembly, rows, console)
    trainer = Trainer(assembly, rows, Path("."), accelerator, console)
    data = batches(rows, assembly.task, recipe.recipe.columns, trainer.settings.batch_size, trainer.settings.seed)
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
    bridge = trainer.bridge
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
        "peak_memory_mb": round(_peak_memory(trainer.device)),
        "seconds_per_step": round(per_step, 4),
        "hours": round(per_step * recipe.recipe.training.steps / 3600, 3),
    }


def _peak_memory(device: torch.device) -> float:
    """Megabytes at the peak: of the GPU's memory, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
