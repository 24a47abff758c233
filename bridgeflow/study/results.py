"""What became of the runs of a study, kept in one file for each."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bridgeflow.config.keys import SamplingSettings
from bridgeflow.config.recipe import Recipe
from bridgeflow.evaluation.intervals import Scores
from bridgeflow.runtime import durable
from bridgeflow.study.settings import ScoringSettings


@dataclass(frozen=True)
class Point:
    """A run, sampled in one way. figures: metric -> value; without: metric -> its value without each part of the
    examples, see `uncertainty`."""

    steps: int
    guidance: float
    evaluations: int
    figures: dict[str, float | None]
    without: dict[str, list[float | None]]

    def scores(self) -> Scores:
        """The figures as numbers."""
        figures = {name: _number(value) for name, value in self.figures.items()}
        return Scores(figures, {name: tuple(map(_number, own)) for name, own in self.without.items()})


@dataclass(frozen=True)
class RunResult:
    """A run that was trained and scored. weights: those that are learned. seconds: of training. trained: the
    fingerprint of its training, the same for runs that share one; empty where it is not known."""

    arm: str
    seed: int
    fingerprint: str
    weights: int
    steps: int
    seconds: float
    points: tuple[Point, ...]
    trained: str = ""

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        durable.write_whole(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> RunResult | None:
        """What `save` wrote; None where there is nothing or something else."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            points = tuple(Point(**point) for point in found.pop("points"))
            return cls(**found, points=points)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True)
class Failed:
    """A run that could not be trained or scored. why: a sentence. trace: where in the code it happened."""

    arm: str
    seed: int
    fingerprint: str
    why: str
    trace: str = ""

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}: {self.why}"

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_whole(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Failed | None:
        """What `save` wrote; None where there is nothing or something else."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures as JSON values."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


_NO_TRAINING = (
    "checkpoint_every", "sample_every", "samples", "log_every", "keep", "evaluate", "workers", "trackers", "validation",
)  # fmt: skip
"""Keys of `training` that change no weight."""


def training_fingerprint(recipe: Recipe, weak_step: int | None = None) -> str:
    """Changes where the training would: runs that have the same are trained once. How often a run is saved and shown
    does not count."""
    tree: dict[str, Any] = json.loads(json.dumps(recipe.tree(), default=str))
    for key in _NO_TRAINING:
        tree.get("training", {}).pop(key, None)
    tree.pop("sampling", None)
    return _hashed([tree, weak_step])


def fingerprint(
    trained: str, scoring: ScoringSettings, scales: tuple[float, ...], sampling: SamplingSettings | None = None
) -> str:
    """Changes where the training, of which the fingerprint is given, or how it is scored would. sampling: that of the
    recipe, of which steps, solver and scale are the study's and do not count."""
    parts: list[Any] = [trained, scoring.model_dump(mode="json"), scales]
    own = {} if sampling is None else sampling.model_dump(mode="json", exclude_defaults=True, exclude=_STUDYS_OWN)
    own = {key: value for key, value in own.items() if value != {}}
    # Only what differs from the defaults: without it the fingerprint is what it was before sampling counted.
    return _hashed([*parts, own] if own else parts)


_STUDYS_OWN: dict[str, Any] = {"solver": {"name", "steps"}, "guidance": {"name", "scale"}, "batch_size": True}
"""Settings of sampling that the study sets, or that change no result."""


def _hashed(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
