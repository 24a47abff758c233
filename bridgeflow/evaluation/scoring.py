"""Figures of a pipeline on examples with one setting of sampling, the same draws each time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridgeflow.config.keys import SamplingSettings
from bridgeflow.data.pairs import Examples
from bridgeflow.evaluation.intervals import Scores, score, score_of_each
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Item
from bridgeflow.task import Task


@dataclass(frozen=True)
class Generated:
    """Results of the first examples. evaluations: of the network, for each (NFE). seconds: for each."""

    results: list[Item]
    evaluations: int
    seconds: float


def generate(pipeline: Pipeline, sampling: SamplingSettings, examples: Examples, seeds: Sequence[int]) -> Generated:
    """Results of as many of the examples as there are seeds; the pipeline's own sampling stays as it is."""
    before = pipeline.sampling
    pipeline.sampling = sampling
    started = time.perf_counter()
    try:
        generated = pipeline.generate(examples.sources[: len(seeds)], seeds=seeds)
    finally:
        pipeline.sampling = before
    seconds = (time.perf_counter() - started) / len(seeds)
    return Generated([own[0] for own in generated], pipeline.evaluations, seconds)


@dataclass(frozen=True)
class Judged:
    """The task's metrics of results. each: those of every example by itself."""

    scores: Scores
    each: list[dict[str, float]]


def judge(task: Task, results: Sequence[Item], examples: Examples) -> Judged:
    """The task's metrics of results of the first examples, and how sure they are.

    Where a figure of all is the mean of those of each, as it is for most metrics, nothing is computed twice.
    """
    columns = (results, examples.truths, examples.sources, examples.rows)

    def metrics(rows: Sequence[int]) -> Mapping[str, float]:
        return task.metrics(*([column[i] for i in rows] for column in columns))

    count = len(results)
    each = [dict(metrics([index])) for index in range(count)]
    figures = metrics(range(count))
    means = score_of_each(each)
    if means.figures.keys() == figures.keys() and all(
        math.isclose(means.figures[name], value, rel_tol=1e-6, abs_tol=1e-9) or math.isnan(value)
        for name, value in figures.items()
    ):
        return Judged(Scores(figures, means.without, count), each)
    return Judged(score(metrics, count), each)


def scores_of(task: Task, results: Sequence[Item], examples: Examples) -> Scores:
    """The scores of `judge`."""
    return judge(task, results, examples).scores
