"""Training from a cache against encoding at every step, as ratios of one run; part of `make bench`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bridgeflow.assembly import assemble
from bridgeflow.assembly.preparing import open_rows, prepare_codecs
from bridgeflow.caching.write import CacheOptions, write_cache
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.runtime.console import Progress
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.loop import Trainer

CODECS = {"of Stable Diffusion's size": (128, 256, 512, 512), "of 16 to 64 channels": (16, 32, 64, 64)}
"""Widths of the stages of an AutoencoderKL; its weights are random, which costs as much as any others."""


def cached_against_uncached(steps: int = 3, batch: int = 8) -> list[dict[str, object]]:
    """A training step of t2i with MiniLM and an AutoencoderKL at 64x64, encoding each time / from the cache; the steps
    of both take turns."""
    return [_one(name, channels, steps, batch) for name, channels in CODECS.items()]


def _one(name: str, channels: Sequence[int], steps: int, batch: int) -> dict[str, object]:
    console = Progress(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        uncached = _recipe(Path(folder), channels, batch)
        write_cache(uncached, Path(folder) / "cache", CacheOptions(), "cpu", console)
        cached = uncached.changed(data={"name": "cache", "path": f"{folder}/cache"})
        times: dict[str, list[float]] = {}
        waited = 0.0
        works = {}
        for label, recipe in (("uncached", uncached), ("cached", cached)):
            assembly = assemble(recipe)
            rows = open_rows(recipe, "train", console)
            prepare_codecs(assembly, rows, console)
            accelerator = make_accelerator(recipe.training, "cpu")
            trainer = Trainer(assembly, rows, Path(folder), accelerator, console)
            data = trainer._batches()
            trainer._train_step(data)
            works[label], times[label] = (trainer, data), []
        for _ in range(steps):
            for label, (trainer, data) in works.items():
                start = time.perf_counter()
                _, wait = trainer._train_step(data)
                times[label].append(time.perf_counter() - start)
                waited += wait if label == "cached" else 0.0
    ratios = sorted(slow / fast for slow, fast in zip(times["uncached"], times["cached"], strict=True))
    medians = [statistics.median(times[label]) for label in ("uncached", "cached")]
    return {
        "what": f"t2i step, batch {batch}, MiniLM, AutoencoderKL {name}, 64x64: uncached / cached",
        "ratio": round(medians[0] / medians[1], 2),
        "spread": [round(ratios[0], 2), round(ratios[-1], 2)],
        "seconds": [round(median, 4) for median in medians],
        "data_wait": round(waited / sum(times["cached"]), 4),
    }


def _recipe(folder: Path, channels: Sequence[int], batch: int) -> Recipe:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=tuple(channels),
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=16,
    ).save_pretrained(folder / "vae")
    codec = f"target.codec={{name: kl, path: {folder / 'vae'}}}"
    sizes = ["data.size=32", "data.held_out=8", "data.workers=1", f"training.batch_size={batch}"]
    return recipes.load("t2i/blocks", [codec, *sizes, "training.precision=fp32"])


if __name__ == "__main__":
    for row in cached_against_uncached():
        print(row)
