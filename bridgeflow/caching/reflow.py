"""Pairs of a flow that is run once: where it began and where it ended, to train a straighter one on.

Paths between the pairs of the data cross, and a flow bends where they do. Between the ends of its own curves nothing
crosses, so that a flow trained on those is nearly straight, and needs few steps, or one (rectified flow; Liu et al.,
arXiv 2209.03003). What the ends were sampled with, guidance too, is learned along.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bridgeflow.checkpoints.checkpoint import Checkpoint
from bridgeflow.config.recipe import Recipe
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Latent
from bridgeflow.runtime.durable import checksum
from bridgeflow.runtime.randomness import generator


class Reflow:
    """Ends of the flows of a model, for the source latents of a cache."""

    def __init__(self, checkpoint: Checkpoint, adjust: Callable[[Pipeline], None], seed: int = 0) -> None:
        """adjust: sets how the model's pipeline samples the pairs. seed: of the starts."""
        self.checkpoint, self.adjust, self.seed = checkpoint, adjust, seed
        self._pipeline: Pipeline | None = None

    @property
    def codecs(self) -> dict[str, Path]:
        """The folders of the fitted codecs that the model works with."""
        return self.checkpoint.codecs(self.checkpoint.recipe(with_data=False))

    def open(self, device: torch.device) -> None:
        """Loads the model on the device of this process. Raises UsageError where it cannot be sampled as asked for."""
        self._pipeline = Pipeline.of(self.checkpoint, str(device))
        self.adjust(self._pipeline)

    @property
    def pipeline(self) -> Pipeline:
        """The model, once it is open."""
        assert self._pipeline is not None
        return self._pipeline

    @property
    def key(self) -> dict[str, Any]:
        """What the pairs depend on, as JSON values."""
        files = (self.checkpoint.folder / name for name in ("ema.safetensors", "model.safetensors"))
        return {
            "weights": next(checksum(path) for path in files if path.is_file()),
            "seed": self.seed,
            "precision": self.pipeline.stages.precision,
            "sampling": self.pipeline.sampling.model_dump(mode="json", exclude={"batch_size"}),
        }

    @torch.no_grad()
    def __call__(self, source: Latent, rows: Sequence[int], variant: int) -> Latent:
        """The target latents (B, *shape) that flows from the source latents end at, with their starts. rows: numbers of
        the rows, which with the variant their draws follow from."""
        stages, sampling = self.pipeline.stages, self.pipeline.sampling
        bridge = stages.bridge
        mixed = stages.precision == "bf16"
        with torch.autocast(stages.device.type, dtype=torch.bfloat16) if mixed else contextlib.nullcontext():
            draws = [generator(self.seed, "reflow", row, variant) for row in rows]
            encoded = bridge.encode(source, draws, sample=sampling.source == "sample")
            z1 = bridge.sample(
                encoded,
                sampling.solver.build(),
                sampling.solver.steps,
                sampling.guidance.build(),
                grid=sampling.grid,
                randomness=[generator(self.seed, "reflow", row, variant, "solver") for row in rows],
            )
        return Latent(z1.float(), start=encoded.z0.float())


def recipe_of(checkpoint: Checkpoint, overrides: dict[str, Any]) -> Recipe:
    """The recipe that training goes on with: the checkpoint's, but without null rows and without guidance, which the
    pairs have in them, and without losses on the source encoder, which stays as it is, or on pixels, which there are
    none of. overrides: keys laid over it, such as another `data.size`."""
    plain = {
        "null_rate": 0.0,
        "sampling": {"guidance": {"name": "none"}},
        "encoding": {"name": "none"},
        "alignment": {"name": "none"},
    }
    return checkpoint.recipe().changed(**plain, **overrides)
