"""By which figure a study decides, and whether it can."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import UsageError
from bridgeflow.study.results import RunResult
from bridgeflow.study.settings import StudySettings


def check_decidable(study: StudySettings, recipes: Mapping[str, Recipe]) -> None:
    """Raises UsageError where no training would lead to a verdict: arms of several tasks, whose figures do not compare,
    or a metric that their task does not rank results by. recipes: one of each arm, by its name."""
    (first, own), *others = recipes.items()
    for arm, recipe in others:
        if recipe.task is not own.task:
            raise UsageError(
                f"arm {arm!r} of the study is of the task {recipe.task_name!r}, but arm {first!r} of "
                f"{own.task_name!r}: give all arms recipes of one task."
            )
    better = own.task.better
    if not better:
        raise UsageError(
            f"the task {own.task_name!r} of this study ranks results by no metric: take recipes of a task that has "
            "some in `better`."
        )
    if study.metric is not None and study.metric not in better:
        near = difflib.get_close_matches(study.metric, better, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"the study's metric {study.metric!r} is none that its task ranks results by: one of {', '.join(better)} "
            f"is expected.{hint}"
        )


def deciding(study: StudySettings, done: Sequence[RunResult]) -> tuple[str, str]:
    """(metric, 'higher' or 'lower') that the study decides by. Raises UsageError where the runs that are done have no
    such figure: a study has those of `Task.metrics` alone, and which they are depends on the data."""
    better = study.resolved(done[0].arm, done[0].seed).task.better
    figures = dict.fromkeys(name for run in done for name in run.points[0].figures)
    ranked = {name: way for name, way in better.items() if name in figures}
    if study.metric is not None and study.metric in ranked:
        return study.metric, ranked[study.metric]
    if study.metric is None and ranked:
        # The first run says which, so that no later one changes what the others were decided by.
        name = next((name for name in ranked if name in done[0].points[0].figures), next(iter(ranked)))
        return name, ranked[name]
    missed = f"metric {study.metric!r} is" if study.metric is not None else f"metrics {', '.join(better)} are"
    fix = f"set metric to one of {', '.join(ranked)}" if ranked else "choose data that such a figure is made of"
    raise UsageError(
        f"the study's {missed} not among the figures of its runs, since a study has only those of the task's quick "
        f"metrics, which are {', '.join(figures) or 'none'} here: {fix}."
    )
