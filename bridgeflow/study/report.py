"""What a study says: a table of arms, and a verdict on each claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from bridgeflow.evaluation.uncertainty import Scores
from bridgeflow.study.results import Point, RunResult
from bridgeflow.study.settings import ClaimSettings, StudySettings

Verdict = Literal["holds", "does not hold", "undecided"]
STUDENT = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09,
)  # fmt: skip
"""Standard errors that a difference has to exceed, by degrees of freedom from 1 on: Student's t, two-sided 95 %."""
NORMAL = 1.96
"""The same for more degrees of freedom."""


@dataclass(frozen=True)
class Value:
    """A figure of an arm: its mean over seeds, and the spread of the seeds (NaN for one)."""

    mean: float
    spread: float
    seeds: int

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return ""
        return f"{self.mean:.3f}" + (f" ± {self.spread:.3f}" if self.seeds > 1 else "")


@dataclass(frozen=True)
class Judged:
    """A claim, what was found, and whether it holds. difference: better minus than, above 0 where the claim is right;
    error: its standard error."""

    claim: ClaimSettings
    verdict: Verdict
    better: Value
    than: Value
    difference: float
    error: float
    why: str

    def json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "says": self.claim.says,
            "paper": self.claim.paper,
            "verdict": self.verdict,
            "better": {"arm": self.claim.better, "value": _finite(self.better.mean)},
            "than": {"arm": self.claim.than, "value": _finite(self.than.mean)},
            "difference": _finite(self.difference),
            "standard_error": _finite(self.error),
            "why": self.why,
        }


class Findings:
    """The runs of a study that are done, by the figure that decides."""

    def __init__(self, study: StudySettings, runs: Sequence[RunResult], metric: str, way: str) -> None:
        self.study = study
        self.metric = metric
        self.way = way
        self.sign = 1.0 if way == "higher" else -1.0
        self.runs = {name: [run for run in runs if run.arm == name] for name in study.arms}

    def point(self, run: RunResult, steps: int | None) -> Point:
        """The run with a number of steps, or the best of all; with the best scale of guidance."""
        among = [point for point in run.points if steps is None or point.steps == steps]

        def goodness(point: Point) -> float:
            value = point.scores().figures.get(self.metric, math.nan)
            return -math.inf if math.isnan(value) else self.sign * value

        return max(among, key=goodness)

    def value(self, arm: str, steps: int | None) -> Value:
        """The figure of an arm."""
        values = [self.point(run, steps).scores().figures[self.metric] for run in self.runs[arm]]
        values = [value for value in values if math.isfinite(value)]
        if not values:
            return Value(math.nan, math.nan, 0)
        return Value(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))

    def luck(self, steps: int | None) -> tuple[float, int]:
        """(standard deviation of a run's figure over seeds, its degrees of freedom): pooled over all arms with several
        seeds, since two or three seeds of one arm say next to nothing of it."""
        squares, freedom = 0.0, 0
        for runs in self.runs.values():
            values = [self.point(run, steps).scores().figures[self.metric] for run in runs]
            values = [value for value in values if math.isfinite(value)]
            if len(values) > 1:
                squares += (len(values) - 1) * stdev(values) ** 2
                freedom += len(values) - 1
        return (math.sqrt(squares / freedom) if freedom else math.nan), freedom

    def _mean(self, arm: str, steps: int | None) -> Scores:
        """The figure of an arm and its jackknife, averaged over seeds: all are scored on the same examples, so more
        seeds say nothing more about those."""
        scores = [self.point(run, steps).scores() for run in self.runs[arm]]
        columns = zip(*(own.without.get(self.metric, ()) for own in scores), strict=True)
        return Scores({}, {self.metric: tuple(fmean(column) for column in columns)})

    def judged(self, claim: ClaimSettings) -> Judged:
        """A claim is decided where the difference is surer than 95 % by Student's t. Its standard error has two parts:
        the luck of training (see `luck`) and that of the examples, paired."""
        better, than = (self.value(name, claim.steps) for name in (claim.better, claim.than))
        if not better.seeds or not than.seeds:
            return Judged(claim, "undecided", better, than, math.nan, math.nan, "not trained yet")
        difference = self.sign * (better.mean - than.mean)
        examples = self._mean(claim.better, claim.steps).error_beside(self._mean(claim.than, claim.steps), self.metric)
        luck, freedom = self.luck(claim.steps)
        if freedom == 0:
            return Judged(claim, "undecided", better, than, difference, examples, "one seed says nothing of luck")
        error = math.hypot(examples, luck * math.sqrt(1 / better.seeds + 1 / than.seeds))
        limit = STUDENT[freedom - 1] if freedom <= len(STUDENT) else NORMAL
        if not abs(difference) > limit * error:
            return Judged(claim, "undecided", better, than, difference, error, "within the spread")
        return Judged(claim, "holds" if difference > 0 else "does not hold", better, than, difference, error, "")

    def markdown(self) -> str:
        """The tables, for a page."""
        steps = self.study.scoring.steps
        lines = [f"# {self.study.title}", ""]
        done = sum(map(len, self.runs.values()))
        wanted = len(list(self.study.runs()))
        lines += [
            f"{self.metric} ({self.way} is better) of {self.study.scoring.count} held-out examples by solver steps: "
            "mean and standard deviation over seeds, at the best scale of guidance of each. "
            f"{done} of {wanted} runs are done.",
            "",
            f"| arm | weights | minutes | seeds | {' | '.join(map(str, steps))} |",
            "|---|---|---|---|" + "---|" * len(steps),
        ]
        for name, runs in self.runs.items():
            if not runs:
                lines.append(f"| {name} | | | 0 | {' | '.join('' for _ in steps)} |")
                continue
            minutes = fmean(run.seconds for run in runs) / 60
            values = " | ".join(str(self.value(name, own)) for own in steps)
            lines.append(f"| {name} | {runs[0].weights / 1e6:.2f} M | {minutes:.0f} | {len(runs)} | {values} |")
        if self.study.claims:
            lines += ["", "| claim | paper | here | verdict |", "|---|---|---|---|"]
        for claim in self.study.claims:
            own = self.judged(claim)
            at = f" at {claim.steps} steps" if claim.steps is not None else ""
            here = ""
            if not math.isnan(own.difference):
                here = f"{own.better} against {own.than}{at}, {own.difference:+.3f} ± {own.error:.3f}"
            verdict = own.verdict + (f" ({own.why})" if own.why else "")
            lines.append(f"| {claim.says} | {claim.paper} | {here} | {verdict} |")
        return "\n".join([*lines, ""])

    def json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        arms = {
            name: {
                "seeds": [run.seed for run in runs],
                "weights": runs[0].weights if runs else None,
                "seconds": [round(run.seconds, 1) for run in runs],
                "values": {str(own): _finite(self.value(name, own).mean) for own in self.study.scoring.steps},
            }
            for name, runs in self.runs.items()
        }
        return {
            "title": self.study.title,
            "metric": self.metric,
            "better": self.way,
            "arms": arms,
            "claims": [self.judged(claim).json() for claim in self.study.claims],
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
