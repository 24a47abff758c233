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
from bridgeflow.errors import BridgeflowError
from bridgeflow.recipe import ResolvedRecipe
from bridgeflow.training.estimate import MARGIN, Estimate, estimate, free_memory, gigabytes, global_batch
from bridgeflow.training.loop import Trainer, encode, make_accelerator
from bridgeflow.training.start import open_rows, prepare_codecs


def dry_run(recipe: ResolvedRecipe, device: str | None, console: Progress, steps: int = 5) -> dict[str, Any]:
    """Tells what a run would take, and tries a few steps on real data where they fit. Writes nothing.

    `mode` is 'real' where steps were tried, 'meta' where the run does not fit into this machine's memory: then
    data and codecs need not be there.
    """
    accelerator = make_accelerator(recipe.recipe.training, device)
    precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    assembly = assemble(recipe)
    try:
        expected: Estimate | None = estimate(assembly, precision)
    except (NotImplementedError, RuntimeError):
        # A network that looks at its numbers cannot run without any.
        expected = None
    training = recipe.recipe.training
    facts: dict[str, Any] = {
        "recipe": recipe.tree(),
        "source_latent": str(assembly.source.latent),
        "target_latent": str(assembly.target.latent),
        "global_batch": global_batch(training.batch_size, training.accumulation, accelerator.num_processes),
        "device": str(accelerator.device),
        "precision": precision,
    }
    free = free_memory(accelerator.device)
    if expected is not None:
        facts["trainable_parameters"] = expected.trainable
        facts["parameters"] = expected.parameters
        facts["memory"] = {name: gigabytes(count) for name, count in expected.memory.items()}
        facts["memory_needed"] = f"about {gigabytes(expected.total)} a process, without the frozen codecs"
        facts["memory_free"] = gigabytes(free)
        if expected.total > MARGIN * free:
            return {**facts, "mode": "meta", **_untried(recipe, expected, free, console)}
    return {**facts, "mode": "real", **_tried(recipe, assembly, accelerator, console, steps)}


def _untried(recipe: ResolvedRecipe, expected: Estimate, free: int, console: Progress) -> dict[str, Any]:
    """What a dry run says that ends on the meta device."""
    try:
        data = open_rows(recipe, "train", console).description
    except BridgeflowError as error:
        data = f"not there: {error}"
    return {
        "data": data,
        "fits": False,
        "verdict": (
            f"shapes agree, but a run does not fit here: it needs about {gigabytes(expected.total)}, and "
            f"{gigabytes(free)} are free. No step was tried, and no codec was loaded. A smaller training.batch_size "
            "with more training.accumulation takes less."
        ),
    }


def _tried(
    recipe: ResolvedRecipe, assembly: Assembly, accelerator: Accelerator, console: Progress, steps: int
) -> dict[str, Any]:
    """What a few real steps show."""
    rows = open_rows(recipe, "train", console)
    prepare_codecs(assembly, rows, console)
    trainer = Trainer(assembly, rows, Path("."), accelerator, console)
    data = batches(rows, assembly.task, recipe.recipe.columns, trainer.settings.batch_size, trainer.settings.seed)
    first = next(data)
    source = encode(assembly.source, first.source, trainer.device)
    target = encode(assembly.target, first.target, trainer.device)
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
