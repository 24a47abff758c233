"""Scores a pipeline on held-out rows, beside a trivial baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from bridgeflow.data.pairs import Examples, read_examples, read_pairs
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.evaluation.backwards import backward_scores, turned_back
from bridgeflow.evaluation.calibration import Calibration, calibration
from bridgeflow.evaluation.intervals import Scores, score, score_of_each
from bridgeflow.evaluation.scoring import judge
from bridgeflow.inference.pictures import comparison
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.inference.spread import check_drawn, check_poolable, pooled
from bridgeflow.modality import Item
from bridgeflow.runtime.randomness import seed_of
from bridgeflow.task import Task

SHOWN = 8
"""Examples in the picture of a report."""
BASELINE_EXAMPLES = 512
"""Training examples that a baseline may look at."""


@dataclass
class Report:
    """figures: metric -> value; scores: how sure those are that have an interval. baseline: the figures of a trivial
    method called baseline_name, where the task has one; ceiling: of what no model can be seen to do better than. notes:
    on figures that were left out. seconds: for a result. ranked: numbers of the examples, the worst first, where the
    task ranks them. picture: source, truth and result of the first examples. scored: what was, and how. spreads: of
    several samples of each example, whose means are then the results; calibration: how the errors go with them."""

    count: int
    evaluations: int
    figures: dict[str, float]
    scores: Scores = field(default_factory=lambda: Scores({}, {}))
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ranked: list[int] = field(default_factory=list)
    baseline_name: str | None = None
    baseline: dict[str, float] = field(default_factory=dict)
    ceiling_name: str | None = None
    ceiling: dict[str, float] = field(default_factory=dict)
    picture: Image | None = None
    unreadable: list[str] = field(default_factory=list)
    results: list[Item] = field(default_factory=list)
    spreads: list[NDArray[np.floating]] = field(default_factory=list)
    calibration: Calibration | None = None
    scored: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What was scored, in words."""
        return kind_of(self.scored)

    def json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        beside = {
            key: {"name": name, "figures": _finite(figures)} if name else None
            for key, name, figures in (
                ("baseline", self.baseline_name, self.baseline),
                ("ceiling", self.ceiling_name, self.ceiling),
            )
        }
        intervals = {name: _finite({"low": low, "high": high}) for name, (low, high) in self.intervals().items()}
        return {
            "examples": self.count,
            "network_evaluations": self.evaluations,
            "seconds_each": round(self.seconds, 5),
            "figures": _finite(self.figures),
            "intervals": intervals,
            **beside,
            "notes": self.notes,
            **({"calibration": self.calibration.json()} if self.calibration else {}),
            "unreadable": self.unreadable,
            **({"scored": self.scored} if self.scored else {}),
        }

    def differences(self, first: Report) -> dict[str, dict[str, float | None]]:
        """The difference of each figure to another report's on the same examples, with its 95 % confidence interval."""
        found = {}
        for name in self.scores.figures:
            if name in first.scores.figures:
                value, half = self.scores.difference(first.scores, name)
                found[name] = _finite({"value": value, "low": value - half, "high": value + half})
        return found

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % confidence interval of each figure that has one."""
        found = {name: self.scores.interval(name) for name in self.figures if name in self.scores.figures}
        return {name: own for name, own in found.items() if math.isfinite(own[0])}


def kind_of(scored: Mapping[str, Any]) -> str:
    """What kind of examples were scored, by `Report.scored`."""
    kinds = {"held_out": "held-out examples", "train": "training examples"}
    return kinds.get(scored.get("split", "held_out"), "examples")


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


class NothingToScore(BridgeflowError):
    """There is no held-out row, or none that can be read."""


def evaluate(
    pipeline: Pipeline,
    held_out: Rows | Stream,
    training: Rows | Stream | None,
    count: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    thorough: bool = False,
) -> Report:
    """Figures of the pipeline on the first `count` held-out rows; the baseline learns from `training` rows.

    thorough: with confidence intervals, the task's `thorough` figures, and a picture of the worst and the best. Raises
    NothingToScore where there is no row to score on.
    """
    examples = read_held_out(pipeline, held_out, count)
    return report_on(pipeline, examples, training, seed, on_progress, thorough)


def read_held_out(pipeline: Pipeline, held_out: Rows | Stream, count: int, whole: bool = False) -> Examples:
    """The first `count` held-out rows, read; whole: see `Task.held_out_pair`. Raises NothingToScore where there is
    none."""
    task = pipeline.assembly.task
    recipe = pipeline.assembly.recipe
    if isinstance(held_out, Rows) and len(held_out) == 0:
        raise NothingToScore(
            f"{held_out.description}: nothing is held out to score on; score all rows with --split all, or "
            f"{recipe.data.to_hold_out} and train again."
        )
    examples = read_examples(held_out, task, recipe.columns, count, whole)
    if not examples.sources:
        raise NothingToScore(
            f"no row of {held_out.description} can be read to score on: see why with bridgeflow data check."
        )
    return examples


def report_on(
    pipeline: Pipeline,
    examples: Examples,
    training: Rows | Stream | None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    thorough: bool = False,
    samples: int = 1,
    backwards: bool = False,
) -> Report:
    """Figures of the pipeline on examples, see `evaluate`.

    samples: of each example; with several, their mean is scored, and their spread held against its errors.
    backwards: with the figures of `backward_scores`. Raises UsageError where the target has no mean, or the model
    cannot be run backwards.
    """
    task = pipeline.assembly.task
    # What cannot be done is said before anything is sampled.
    if samples > 1:
        check_poolable(pipeline.assembly.target, samples)
    if backwards:
        turned_back(pipeline)
    seeds = [seed_of(seed, index) for index in range(len(examples.sources))]
    started = time.perf_counter()
    results, spreads = _generate(pipeline, examples.sources, seeds, samples, on_progress)
    seconds = (time.perf_counter() - started) / len(results)
    columns = (examples.truths, examples.sources, examples.rows)
    report = Report(len(results), samples * pipeline.evaluations, {}, seconds=seconds, unreadable=examples.unreadable)
    report.results, report.spreads = results, spreads
    stated = [task.errors(*own) for own in zip(results, spreads, examples.truths, strict=True)] if spreads else []
    found = [own for own in stated if own is not None]
    report.calibration = calibration(found) if found else None
    if thorough:
        _judge(report, task, results, examples)
    else:
        report.figures = task.metrics(results, *columns)
    if report.calibration is not None:
        _add(report, score_of_each([{"ause": value} for value in report.calibration.each]), thorough)
    if backwards:
        _add(report, backward_scores(pipeline, examples, results, seed, on_progress), thorough)
    pairs = read_pairs(training, task, pipeline.assembly.recipe.columns, BASELINE_EXAMPLES) if training else ()
    learned = (pair[1] for pair in pairs if not isinstance(pair, BridgeflowError))
    trivial = task.baseline(examples.truths, examples.sources, learned)
    if trivial is not None:
        report.baseline_name = trivial[0]
        report.baseline = dict(task.metrics(trivial[1], *columns))
        more = task.thorough(trivial[1], *columns) if thorough else None
        if more is not None:
            report.baseline |= {**more.figures(range(len(results))), **more.once}
    ceiling = task.ceiling(examples.truths, examples.sources, examples.rows) if thorough else None
    if ceiling is not None:
        report.ceiling_name, report.ceiling = ceiling
    report.picture = picture_of(pipeline, examples, results, range(min(SHOWN, len(results))))
    return report


def _generate(
    pipeline: Pipeline,
    sources: Sequence[Item],
    seeds: Sequence[int],
    samples: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[Item], list[NDArray[np.floating]]]:
    """A result for each source, or the mean of several and their spread."""
    if samples == 1:
        return [own[0] for own in pipeline.generate(sources, seeds=seeds, on_progress=on_progress)], []
    results: list[Item] = []
    spreads: list[NDArray[np.floating]] = []
    # A few at a time: all samples of all sources would be in memory together.
    size = max(1, pipeline.sampling.batch_size // samples)
    for first in range(0, len(sources), size):
        drawn = pipeline.generate(sources[first : first + size], samples, seeds=seeds[first : first + size])
        each = [pooled(pipeline.assembly.target, own) for own in drawn]
        results += [own.mean for own in each]
        spreads += [own.spread for own in each]
        if on_progress is not None:
            on_progress(len(results), len(sources))
    check_drawn(spreads, samples)
    return results, spreads


def _add(report: Report, more: Scores, with_intervals: bool) -> None:
    report.figures = {**report.figures, **more.figures}
    if with_intervals:
        report.scores = Scores(
            {**report.scores.figures, **more.figures}, {**report.scores.without, **more.without}, more.count
        )


def picture_of(pipeline: Pipeline, examples: Examples, results: Sequence[Item], rows: Sequence[int]) -> Image:
    """Source, truth and result of some examples."""
    columns = ([own[i] for i in rows] for own in (examples.sources, examples.truths, results))
    sources, truths, chosen = columns
    return comparison(
        pipeline.assembly.source,
        pipeline.assembly.target,
        sources,
        truths,
        chosen,
        ("truth", "prediction"),
    )


def _judge(report: Report, task: Task, results: list[Item], examples: Examples) -> None:
    """The figures with their errors, and which examples are worst and best."""
    judged = judge(task, results, examples)
    figures, without = dict(judged.scores.figures), dict(judged.scores.without)
    more = task.thorough(results, examples.truths, examples.sources, examples.rows)
    if more is not None:
        extra = score(more.figures, len(results))
        figures |= {**extra.figures, **more.once}
        without |= extra.without
        report.notes += more.notes
    report.figures = figures
    report.scores = Scores({name: figures[name] for name in without}, without, len(results))
    headline = next(((name, way) for name, way in task.better.items() if name in judged.scores.figures), None)
    if headline is not None:
        name, way = headline
        found = [own.get(name, math.nan) for own in judged.each]
        # What has no figure is as bad as can be.
        values = [value if way == "higher" else -value for value in found]
        values = [-math.inf if math.isnan(value) else value for value in values]
        report.ranked = sorted(range(len(values)), key=values.__getitem__)
