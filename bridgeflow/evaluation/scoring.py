"""Figures of a pipeline on examples with one setting of sampling, the same draws each time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridgeflow.evaluation.runner import Examples
from bridgeflow.evaluation.uncertainty import Scores, score
from bridgeflow.inference import Pipeline
from bridgeflow.modality import Item
from bridgeflow.recipe import SamplingSettings
from bridgeflow.task import Task


@dataclass(frozen=True)
class Carried:
    """Results of the first examples. evaluations: of the network, for each (NFE). seconds: for each."""

    results: list[Item]
    evaluations: int
    seconds: float


def carry(pipeline: Pipeline, sampling: SamplingSettings, examples: Examples, seeds: Sequence[int]) -> Carried:
    """Results of as many of the examples as there are seeds; the pipeline's own sampling stays as it is."""
    before = pipeline.sampling
    pipeline.sampling = sampling
    started = time.perf_counter()
    try:
        carried = pipeline.carry(examples.sources[: len(seeds)], seeds=seeds)
    finally:
        pipeline.sampling = before
    seconds = (time.perf_counter() - started) / len(seeds)
    return Carried([own[0] for own in carried], pipeline.evaluations, seconds)


def scores_of(task: Task, results: Sequence[Item], examples: Examples) -> Scores:
    """The task's metrics of results of the first examples, and how sure they are."""

    def metrics(rows: Sequence[int]) -> Mapping[str, float]:
        picked = ([column[i] for i in rows] for column in (results, examples.truths, examples.sources, examples.rows))
        return task.metrics(*picked)

    return score(metrics, len(results))
