"""Scores a pipeline on held-out rows, beside a trivial baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from bridgeflow.data.batches import in_order, named, read_pair
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.inference import Pipeline
from bridgeflow.modality import Item
from bridgeflow.pictures import comparison
from bridgeflow.randomness import seed_of
from bridgeflow.task import Task

SHOWN = 8
"""Examples in the picture of a report."""
BASELINE_EXAMPLES = 512
"""Training examples that a baseline may look at."""


@dataclass
class Report:
    """figures: metric -> value. baseline: the same for a trivial method called baseline_name, where the task has
    one. picture: source, truth and result of the first examples."""

    count: int
    evaluations: int
    figures: dict[str, float]
    baseline_name: str | None = None
    baseline: dict[str, float] = field(default_factory=dict)
    picture: Image | None = None
    unreadable: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        baseline = {"name": self.baseline_name, "figures": _finite(self.baseline)} if self.baseline_name else None
        return {
            "examples": self.count,
            "network_evaluations": self.evaluations,
            "figures": _finite(self.figures),
            "baseline": baseline,
            "unreadable": self.unreadable,
        }


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


@dataclass
class Examples:
    """Items of rows as a task pairs them."""

    sources: list[Item] = field(default_factory=list)
    truths: list[Item] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def read_pairs(
    rows: Rows | Stream, task: Task, renames: Mapping[str, str], count: int
) -> Iterator[tuple[Item, Item, dict[str, Any]] | BridgeflowError]:
    """(source item, target item, row) of the first `count` rows one by one; the error of one that cannot be read."""
    for index, row in in_order(rows, count):
        if isinstance(row, BridgeflowError):
            yield row
            continue
        try:
            yield (*read_pair(task, row, renames, index, seed_of("evaluation", index)), named(row, renames))
        except BridgeflowError as error:
            yield error


def read_examples(rows: Rows | Stream, task: Task, renames: Mapping[str, str], count: int) -> Examples:
    """The first `count` rows, read; those that cannot be read are named and passed over."""
    examples = Examples()
    for pair in read_pairs(rows, task, renames, count):
        if isinstance(pair, BridgeflowError):
            examples.unreadable.append(str(pair))
            continue
        examples.sources.append(pair[0])
        examples.truths.append(pair[1])
        examples.rows.append(pair[2])
    return examples


class NothingToScore(BridgeflowError):
    """There is no held-out row, or none that can be read."""


def evaluate(
    pipeline: Pipeline,
    held_out: Rows | Stream,
    training: Rows | Stream | None,
    count: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Figures of the pipeline on the first `count` held-out rows; the baseline learns from `training` rows.

    Raises NothingToScore where there is no row to score on.
    """
    task = pipeline.assembly.task
    renames = pipeline.assembly.recipe.recipe.columns
    if isinstance(held_out, Rows) and len(held_out) == 0:
        raise NothingToScore(f"{held_out.description}: nothing is held out to score on; raise data.held_out.")
    examples = read_examples(held_out, task, renames, count)
    if not examples.sources:
        raise NothingToScore(
            f"no held-out row of {held_out.description} can be read: check with bridgeflow data check."
        )
    seeds = [seed_of(seed, index) for index in range(len(examples.sources))]
    results = [own[0] for own in pipeline.carry(examples.sources, seeds=seeds, on_progress=on_progress)]
    report = Report(
        len(results),
        pipeline.evaluations,
        task.metrics(results, examples.truths, examples.sources, examples.rows),
        unreadable=examples.unreadable,
    )
    pairs = read_pairs(training, task, renames, BASELINE_EXAMPLES) if training is not None else iter(())
    learned = (pair[1] for pair in pairs if not isinstance(pair, BridgeflowError))
    trivial = task.baseline(examples.truths, examples.sources, learned)
    if trivial is not None:
        report.baseline_name = trivial[0]
        report.baseline = task.metrics(trivial[1], examples.truths, examples.sources, examples.rows)
    source, target = pipeline.assembly.source, pipeline.assembly.target
    report.picture = comparison(
        source,
        target,
        examples.sources[:SHOWN],
        examples.truths[:SHOWN],
        results[:SHOWN],
        ("source", "truth", "prediction"),
    )
    return report
