"""The keys of a recipe that belong to no plugin, and which of the others name one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from bridgeflow.bridge import BridgeSettings
from bridgeflow.config import layers
from bridgeflow.config.optimizers import AdamWSettings, OptimizerSettings
from bridgeflow.flow.guidance import GuidanceSettings, NoGuidanceSettings
from bridgeflow.flow.solver import EulerSettings, SolverSettings
from bridgeflow.registry.component import Component
from bridgeflow.runtime.precision import Precision
from bridgeflow.settings import Settings

COMPONENTS = {
    "source_encoder": "source_encoder",
    "coupling": "coupling",
    "path": "path",
    "objective": "objective",
    "encoding": "encoding_loss",
    "optimizer": "optimizer",
    "sampling.solver": "solver",
    "sampling.guidance": "guidance",
}
"""Keys of a recipe whose settings are those of a plugin, with its kind."""

SECTIONS = {"data": "dataset", "network": "network"}
"""Sections of a recipe that name a plugin, with its kind."""


class LearningRateSettings(Settings):
    """The learning rate along the run, as a share of its peak."""

    warmup: int = Field(default=50, ge=0)
    """Optimiser steps from 0 to the peak."""
    decay: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up, up to the last step."""
    final: float = Field(default=0.02, ge=0, le=1)
    """Share of the peak at the last step of a cosine."""


class TrainingSettings(Settings):
    """The length, batch size and intervals of a run."""

    steps: int = Field(default=2000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=32, ge=1)
    """Pairs a process takes for one backward pass."""
    accumulation: int = Field(default=1, ge=1)
    """Backward passes summed into an optimiser step."""
    seed: int = Field(default=0, ge=0)
    """Every draw of step n derives from (seed, n)."""
    precision: Precision = "auto"
    """Autocast type; auto measures whether bf16 is faster here and keeps the answer for the run."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient; null leaves it as it is."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the weight average, warmed up as (1 + n) / (10 + n); 0 keeps none. Results come from the average."""
    schedule: LearningRateSettings = LearningRateSettings()
    """Warm-up and decay."""
    log_every: int = Field(default=20, ge=1)
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that stay."""
    sample_every: int = Field(default=500, ge=0)
    """Steps between sample pictures of held-out examples; 0 makes none but the last."""
    samples: int = Field(default=8, ge=1)
    """Held-out examples in a sample picture."""
    validation: int = Field(default=64, ge=0)
    """Held-out pairs on which the weight average's flow loss is measured wherever samples are drawn, as val/loss; 0
    measures none. The checkpoint where it was lowest is kept as checkpoints/best."""
    evaluate: int = Field(default=256, ge=0)
    """Held-out examples that are scored at the end; 0 scores none."""
    trackers: tuple[str | dict[str, Any], ...] = ("tensorboard",)
    """Where figures and pictures go besides the run's folder: names of trackers, or {name: ...} with their settings."""
    workers: int = Field(default=0, ge=0)
    """Processes that read rows ahead; 0 reads in the training process."""
    gradient_checkpointing: bool = False
    """Computes the blocks of network and encoders a second time in the backward pass instead of keeping what they hold:
    less memory, about a third more time, the same gradients."""
    check_memory: bool = True
    """Whether a run is refused that is expected to need more memory than is free; `--dry-run` prints the estimate."""
    compile: bool = False
    """Compiles the velocity network for this machine with torch.compile, which takes a minute or more at the start."""


class SamplingSettings(Settings):
    """Defaults of sampling, kept with the checkpoint."""

    solver: Annotated[SerializeAsAny[SolverSettings], Component("solver", "euler")] = EulerSettings()
    """Method and steps."""
    grid: Literal["uniform", "density"] | None = None
    """The solver's grid of times; that of `time.grid` where none is given."""
    guidance: Annotated[SerializeAsAny[GuidanceSettings], Component("guidance", "none")] = NoGuidanceSettings()
    """None or by the indicator."""
    source: Literal["sample", "mean"] = "sample"
    """Whether a noisy or variational source is drawn or taken at its mean."""
    batch_size: int = Field(default=32, ge=1)
    """Items of a batch."""

    @model_validator(mode="before")
    @classmethod
    def _as_it_is_written_now(cls, values: Any) -> Any:
        # A checkpoint keeps its sampling as it was written then.
        return layers.current({"sampling": values})["sampling"] if isinstance(values, Mapping) else values


class RecipeKeys(BridgeSettings):
    """A recipe's own keys. The sections `source`, `target`, `options`, `data` and `network` belong to plugins
    and are checked against their settings in `resolve`."""

    task: str
    """Name of the task."""
    options: dict[str, Any] = {}
    """Options of the task."""
    source: dict[str, Any] = {}
    """Options of the source modality; those of a task's conditions, by name, under `conditions`."""
    target: dict[str, Any] = {}
    """Options of the target modality."""
    data: dict[str, Any] = {"name": "blocks"}
    """The data set by `name`, with its settings."""
    codecs: dict[str, str] = {}
    """Folders of codecs that `bridgeflow fit` made, by the key of the modality's section: source, target, or
    source.conditions.NAME; a codec without one is fitted when training starts."""
    columns: dict[str, str] = {}
    """Column that the task needs -> column of the data, where the names differ."""
    network: dict[str, Any] = {"name": "dit"}
    """The velocity network by `name`, with its settings."""
    optimizer: Annotated[SerializeAsAny[OptimizerSettings], Component("optimizer", "adamw")] = AdamWSettings()
    """The optimiser."""
    training: TrainingSettings = TrainingSettings()
    """Length, batch size and intervals."""
    sampling: SamplingSettings = SamplingSettings()
    """Defaults of sampling."""
