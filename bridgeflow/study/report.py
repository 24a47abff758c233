"""What a study says: a table of arms, and a verdict on each claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from bridgeflow.evaluation.intervals import Scores, student_95
from bridgeflow.study.results import Failed, Point, RunResult
from bridgeflow.study.settings import ClaimSettings, StudySettings

Verdict = Literal["holds", "does not hold", "undecided"]


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
    """The runs of a study that are done, by the figure that decides, and those that failed."""

    def __init__(
        self, study: StudySettings, runs: Sequence[RunResult], metric: str, way: str, failed: Sequence[Failed] = ()
    ) -> None:
        self.study = study
        self.metric = metric
        self.way = way
        self.sign = 1.0 if way == "higher" else -1.0
        self.runs = {name: [run for run in runs if run.arm == name] for name in study.arms}
        self.failed = tuple(failed)

    def point(self, run: RunResult, steps: int | None) -> Point:
        """The run with a number of steps, or the best of all; with the best scale of guidance."""
        among = [point for point in run.points if steps is None or point.steps == steps]

        def goodness(point: Point) -> float:
            value = _figure(point, self.metric)
            return -math.inf if math.isnan(value) else self.sign * value

        return max(among, key=goodness)

    def figure(self, run: RunResult, steps: int | None) -> float:
        """The figure of a run; NaN where its data give none."""
        return _figure(self.point(run, steps), self.metric)

    def scored(self, arm: str, steps: int | None) -> list[RunResult]:
        """The runs of an arm that have the figure."""
        return [run for run in self.runs[arm] if math.isfinite(self.figure(run, steps))]

    def value(self, arm: str, steps: int | None) -> Value:
        """The figure of an arm."""
        values = [self.figure(run, steps) for run in self.scored(arm, steps)]
        if not values:
            return Value(math.nan, math.nan, 0)
        return Value(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))

    def _families(self, steps: int | None) -> list[list[str]]:
        """The arms, those together that share a training."""
        families: list[tuple[set[str], list[str]]] = []
        for name in self.runs:
            trainings, names, apart = {_training(run) for run in self.scored(name, steps)}, [name], []
            for family in families:
                if family[0] & trainings:
                    trainings, names = trainings | family[0], [*family[1], *names]
                else:
                    apart.append(family)
            families = [*apart, (trainings, names)]
        return [names for _, names in families]

    def luck(self, steps: int | None) -> tuple[float, int]:
        """(standard deviation of a run's figure over seeds, its degrees of freedom): pooled over all arms with several
        seeds, since two or three seeds of one arm say next to nothing of it.

        Arms that share a training say the same of its luck: they count as one, by the mean of their variances. An arm
        whose figure is 0 with every seed says nothing of the luck of those that work.
        """
        squares, freedom = 0.0, 0
        for names in self._families(steps):
            trainings: set[str] = set()
            variances, degrees = 0.0, 0
            for name in names:
                runs = self.scored(name, steps)
                values = [self.figure(run, steps) for run in runs]
                if len(values) > 1 and any(values):
                    variances += (len(values) - 1) * stdev(values) ** 2
                    degrees += len(values) - 1
                    trainings |= {_training(run) for run in runs}
            if degrees:
                squares += (len(trainings) - 1) * variances / degrees
                freedom += len(trainings) - 1
        return (math.sqrt(squares / freedom) if freedom else math.nan), freedom

    def _parts(self, run: RunResult, steps: int | None) -> tuple[float, ...]:
        return self.point(run, steps).scores().without.get(self.metric, ())

    def _without(self, runs: Sequence[RunResult], steps: int | None) -> list[float]:
        """The jackknife of the figure, averaged over runs: all are scored on the same examples, so more seeds say
        nothing more about those."""
        return [fmean(column) for column in zip(*(self._parts(run, steps) for run in runs), strict=True)]

    def _pairs(self, claim: ClaimSettings) -> list[tuple[RunResult, RunResult]]:
        """Runs of the two arms of a claim, those together that come of one training."""
        others = {_training(run): run for run in self.scored(claim.than, claim.steps)}
        mine = self.scored(claim.better, claim.steps)
        return [(run, others[_training(run)]) for run in mine if _training(run) in others]

    def judged(self, claim: ClaimSettings) -> Judged:
        """A claim is decided where the difference is surer than 95 %. Its standard error has two parts: the luck of
        training (see `luck`) and that of the examples, paired. Arms that share their trainings share its luck, so that
        the first part is the spread of their differences, training by training.

        The factor by which the difference has to exceed it is Student's t of either part by its own degrees of freedom,
        weighed by the squares of the parts (Cochran and Cox, Experimental Designs, 1957).
        """
        steps = claim.steps
        better, than = (self.value(name, steps) for name in (claim.better, claim.than))
        if not better.seeds or not than.seeds:
            there = all(self.runs[name] for name in (claim.better, claim.than))
            why = f"no {self.metric} in its runs" if there else "not trained yet"
            return Judged(claim, "undecided", better, than, math.nan, math.nan, why)
        pairs = self._pairs(claim)
        if pairs:
            mine, others = [run for run, _ in pairs], [run for _, run in pairs]
            apart = [self.figure(run, steps) - self.figure(other, steps) for run, other in pairs]
            difference, freedom = self.sign * fmean(apart), len(pairs) - 1
            training = stdev(apart) / math.sqrt(len(pairs)) if freedom else math.nan
        else:
            mine, others = self.scored(claim.better, steps), self.scored(claim.than, steps)
            difference = self.sign * (better.mean - than.mean)
            luck, freedom = self.luck(steps)
            training = luck * math.sqrt(1 / better.seeds + 1 / than.seeds)
        if len({len(self._parts(run, steps)) for run in (*mine, *others)}) > 1:
            return Judged(claim, "undecided", better, than, difference, math.nan, "scored on other examples")
        without = [a - b for a, b in zip(self._without(mine, steps), self._without(others, steps), strict=True)]
        examples = Scores({}, {self.metric: tuple(without)}).error(self.metric)
        if freedom == 0:
            single = min(better.seeds, than.seeds) == 1
            why = "one seed says nothing of luck" if single else "no spread of seeds to judge by"
            return Judged(claim, "undecided", better, than, difference, examples, why)
        error = math.hypot(examples, training)
        known = sum(map(math.isfinite, without)) - 1
        limit = student_95(freedom) * training**2 + (student_95(known) * examples**2 if examples else 0.0)
        if not abs(difference) > (limit / error if error else 0.0):
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
            "mean ± standard deviation over seeds, at the best scale of guidance of each. "
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
        if any(len({point.guidance for point in run.points}) > 1 for runs in self.runs.values() for run in runs):
            lines += ["", "The best scale is picked on the examples that decide, which flatters an arm with several."]
        if self.study.claims:
            lines += ["", "Figures: mean ± standard deviation over seeds. Differences: ± one standard error."]
            lines += ["", "| claim | paper | here | verdict |", "|---|---|---|---|"]
        for claim in self.study.claims:
            own = self.judged(claim)
            at = f" at {claim.steps} steps" if claim.steps is not None else ""
            here = ""
            if not math.isnan(own.difference):
                here = f"{own.better} against {own.than}{at}: difference {own.difference:+.3f} ± {own.error:.3f}"
            verdict = own.verdict + (f" ({own.why})" if own.why else "")
            lines.append(f"| {claim.says} | {claim.paper} | {here} | {verdict} |")
        if self.failed:
            lines += ["", "Failed:", "", *(f"- {own}" for own in self.failed)]
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
            "failed": [{"arm": own.arm, "seed": own.seed, "why": own.why} for own in self.failed],
        }


def _training(run: RunResult) -> str:
    """What distinguishes the training of a run from others."""
    return run.trained or f"{run.arm} {run.seed}"


def _figure(point: Point, metric: str) -> float:
    value = point.figures.get(metric)
    return math.nan if value is None else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
