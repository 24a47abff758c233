"""Scores of a model run backwards, on the targets of the data and on its own results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bridgeflow.data.pairs import Examples
from bridgeflow.errors import UsageError
from bridgeflow.evaluation.intervals import Scores
from bridgeflow.evaluation.scoring import judge
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.inference.reverse import ReverseStages, reversed_pipeline
from bridgeflow.modality import Item


def turned_back(pipeline: Pipeline) -> Pipeline:
    """The pipeline run backwards. Raises UsageError as `reversed_pipeline`, and for one that is so already."""
    if isinstance(pipeline.stages, ReverseStages):
        raise UsageError("this model is run backwards already: score it for the task that it was trained for.")
    return reversed_pipeline(pipeline)


def backward_scores(
    pipeline: Pipeline,
    examples: Examples,
    results: Sequence[Item],
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """How well the sources are read back, by the metrics of the mirrored task: `reverse_NAME` from the true targets,
    `cycle_NAME` from the results of the same model (source to target to source).

    Raises UsageError where the model cannot be run backwards.
    """
    turned = turned_back(pipeline)
    task, total = turned.assembly.task, 2 * len(results)
    # The rows of another task may lack what its metrics look at.
    known = set(task.columns) <= set(type(pipeline.assembly.task).columns)
    figures: dict[str, float] = {}
    without: dict[str, tuple[float, ...]] = {}
    for name, targets in (("reverse", examples.truths), ("cycle", list(results))):
        done = 0 if name == "reverse" else len(results)
        read = turned.generate(
            targets,
            seed=seed,
            on_progress=None if on_progress is None else lambda count, _, done=done: on_progress(done + count, total),  # type: ignore[misc]
        )
        mirrored = replace(
            examples, sources=targets, truths=examples.sources, rows=examples.rows if known else [{}] * len(results)
        )
        scores = judge(task, [own[0] for own in read], mirrored).scores
        figures |= {f"{name}_{metric}": value for metric, value in scores.figures.items()}
        without |= {f"{name}_{metric}": values for metric, values in scores.without.items()}
    return Scores(figures, without, len(results))
