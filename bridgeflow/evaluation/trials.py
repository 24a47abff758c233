"""What a search for sampling has tried and found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from bridgeflow.config.keys import SamplingSettings
from bridgeflow.evaluation.intervals import Scores


@dataclass(frozen=True)
class Trial:
    """One setting of sampling, and what became of it."""

    sampling: SamplingSettings
    scores: Scores
    metric: str
    evaluations: int
    """Evaluations of the network for a result (NFE)."""
    seconds: float
    """Seconds for a result, with encoding and decoding."""

    @property
    def cost(self) -> int:
        """Rows that the network sees for a result: an evaluation with guidance has two."""
        return self.evaluations * (2 if is_guided(self.sampling) else 1)

    @property
    def value(self) -> float:
        """The metric."""
        return self.scores.figures[self.metric]

    def json(self) -> dict[str, Any]:
        """Setting and figures as JSON values."""
        error = self.scores.error(self.metric)
        return {
            "sampling": self.sampling.model_dump(mode="json"),
            "evaluations": self.evaluations,
            "cost": self.cost,
            "seconds": round(self.seconds, 5),
            "value": self.value if math.isfinite(self.value) else None,
            "standard_error": error if math.isfinite(error) else None,
        }


@dataclass
class Tuning:
    """What was tried. `present` is how the checkpoint samples until now, `best` the best of all, `chosen` the cheapest
    that is good enough; all three are among `trials`. `confirmed` holds the last two and the present one again, on
    examples that the choice has not seen, where there are any."""

    metric: str
    way: str
    tolerance: float
    examples: int
    trials: list[Trial]
    present: Trial
    best: Trial
    chosen: Trial
    confirmed: dict[str, Trial] = field(default_factory=dict)
    fresh: int = 0

    def json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "metric": self.metric,
            "better": self.way,
            "tolerance": self.tolerance,
            "examples": self.examples,
            "present": self.present.json(),
            "best": self.best.json(),
            "chosen": self.chosen.json(),
            "confirmed": {"examples": self.fresh, **{name: own.json() for name, own in self.confirmed.items()}},
            "trials": [trial.json() for trial in self.trials],
        }


def is_guided(sampling: SamplingSettings) -> bool:
    """Whether an evaluation takes two rows of the network."""
    return sampling.guidance.is_active


def described(sampling: SamplingSettings) -> str:
    """'heun, 4 steps, guidance 2, grid density'."""
    solver = sampling.solver
    count = f"{solver.steps} step{'s' if solver.steps > 1 else ''}"
    words = [solver.name if solver.evaluations_per_step is None else f"{solver.name}, {count}"]
    words += [f"guidance {sampling.guidance.scale:g}"] if is_guided(sampling) else []
    words += [f"grid {sampling.grid}"] if sampling.grid is not None else []
    return ", ".join(words)
