"""Trains and scores the runs of a study, those that are not done yet."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridgeflow.console import Progress
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.evaluation.examples import Examples, read_examples
from bridgeflow.evaluation.scoring import carry, scores_of
from bridgeflow.inference import Pipeline
from bridgeflow.randomness import seed_of
from bridgeflow.recipe import ResolvedRecipe
from bridgeflow.study.results import Point, RunResult, fingerprint, finite, training_fingerprint
from bridgeflow.study.settings import StudySettings
from bridgeflow.training import start
from bridgeflow.training.checkpoint import list_checkpoints, open_checkpoint
from bridgeflow.training.lock import FolderHeld, FolderLock


@dataclass(frozen=True)
class Planned:
    """A run of a study and where it stands. done: None where it has still to be trained or scored."""

    arm: str
    seed: int
    recipe: ResolvedRecipe
    scales: tuple[float, ...]
    trained: str
    """Fingerprint of the training, which arms that are scored in different ways may share."""
    fingerprint: str
    done: RunResult | None


def _name(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


def planned(study: StudySettings, folder: Path) -> list[Planned]:
    """Every run of the study in its order. Raises UsageError where a recipe does not fit."""
    runs = []
    for arm, seed in study.runs():
        recipe = study.resolved(arm, seed)
        scales = study.scales(arm, recipe)
        trained = training_fingerprint(recipe, study.arms[arm].weak_step)
        own = fingerprint(trained, study.scoring, scales)
        runs.append(Planned(arm, seed, recipe, scales, trained, own, _result(folder, arm, seed, own)))
    return runs


def _result(folder: Path, arm: str, seed: int, own: str) -> RunResult | None:
    found = RunResult.read(folder / "results" / f"{_name(arm, seed)}.json")
    return found if found and found.fingerprint == own else None


def carry_out(
    study: StudySettings, folder: Path, console: Progress, device: str | None = None, minutes: float | None = None
) -> Iterator[RunResult]:
    """Trains and scores what is not done, run by run; after `minutes` it begins no other.

    A run that was stopped goes on where it was saved. What another process is at is left to it. Raises Interrupted
    where a training was stopped by a signal.
    """
    started, begun, elsewhere = time.monotonic(), 0, []
    for run in planned(study, folder):
        if run.done is not None:
            continue
        try:
            lock = FolderLock(folder / "runs" / ".claims" / run.trained, "a run of the study in", console.warn)
        except FolderHeld:
            elsewhere.append(_name(run.arm, run.seed))
            continue
        with lock:
            # Another process may have done it since the runs were planned.
            if _result(folder, run.arm, run.seed, run.fingerprint) is not None:
                continue
            begun += 1
            if begun > 1 and minutes is not None and time.monotonic() - started >= 60 * minutes:
                return
            console.say(f"{run.arm}, seed {run.seed}")
            result = _carry_out(study, run, folder, console, device)
            result.save(folder / "results" / f"{_name(run.arm, run.seed)}.json")
        yield result
    if elsewhere:
        console.say(f"left to the process that is at it: {', '.join(elsewhere)}.")


class Interrupted(BridgeflowError):
    """A training of the study was stopped by a signal."""


def _carry_out(study: StudySettings, run: Planned, folder: Path, console: Progress, device: str | None) -> RunResult:
    place = _place(folder, run)
    (folder / "results").mkdir(parents=True, exist_ok=True)
    saved = list_checkpoints(place / "checkpoints")
    before = open_checkpoint(place, thorough=True) if saved else None
    quiet = run.recipe.changed(training={"evaluate": 0})
    if before is None or before.step < quiet.recipe.training.steps:
        done = start.train(quiet, str(place), before, device, console)
        if done.outcome.interrupted is not None:
            raise Interrupted(f"the study was stopped by {done.outcome.interrupted}: the same command goes on with it.")
    checkpoint = open_checkpoint(place)
    pipeline = Pipeline.of(checkpoint, device)
    weak_step = study.arms[run.arm].weak_step
    if weak_step is not None:
        pipeline.guide_by(place / "checkpoints" / f"{weak_step:06d}")
    examples = _examples(study, run.recipe, pipeline, console)
    points = tuple(_points(study, run, pipeline, examples, console))
    weights = sum(own.numel() for own in pipeline.bridge.parameters() if own.requires_grad)
    seconds = _trained_seconds(place, run.recipe)
    return RunResult(run.arm, run.seed, run.fingerprint, weights, checkpoint.step, seconds, points)


def _place(folder: Path, run: Planned) -> Path:
    """Folder of the training, which bears the name of the first arm that needed it."""
    there = sorted((folder / "runs").glob(f"*-{run.trained[:8]}"))
    return there[0] if there else folder / "runs" / f"{_name(run.arm, run.seed)}-{run.trained[:8]}"


def _examples(study: StudySettings, recipe: ResolvedRecipe, pipeline: Pipeline, console: Progress) -> Examples:
    rows = start.open_rows(recipe, "held_out", console)
    found = read_examples(rows, pipeline.assembly.task, recipe.recipe.columns, study.scoring.count)
    if len(found.sources) < 2:
        raise BridgeflowError(
            f"{rows.description}: too few held-out rows can be read to score on; raise data.held_out."
        )
    return found


def _points(
    study: StudySettings, run: Planned, pipeline: Pipeline, examples: Examples, console: Progress
) -> Iterator[Point]:
    scoring = study.scoring
    seeds = [seed_of("study", index) for index in range(len(examples.sources))]
    total = len(scoring.steps) * len(run.scales)
    for place, (steps, scale) in enumerate((steps, scale) for steps in scoring.steps for scale in run.scales):
        console(place, total, f"scoring {_name(run.arm, run.seed)}", detail=f"  {steps} steps, guidance {scale:g}")
        sampling = pipeline.adjusted(steps=steps, solver=scoring.solver, guidance=scale)
        carried = carry(pipeline, sampling, examples, seeds)
        scores = scores_of(pipeline.assembly.task, carried.results, examples)
        without = {name: [own if math.isfinite(own) else None for own in left] for name, left in scores.without.items()}
        yield Point(steps, scale, carried.evaluations, finite(scores.figures), without)
    console.clear()


def _trained_seconds(place: Path, recipe: ResolvedRecipe) -> float:
    """Seconds of training by the run's own log, over all times that it was started."""
    pairs = recipe.recipe.training.batch_size * recipe.recipe.training.accumulation
    seconds, before = 0.0, 0
    for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            step, rate = int(row["step"]), float(row["pairs_per_second"])
        except (ValueError, KeyError, TypeError):
            continue
        # What was trained twice, after a stop, was needed once.
        seconds += max(0, step - before) * pairs / rate
        before = max(before, step)
    return seconds


def deciding(study: StudySettings, done: Sequence[RunResult]) -> tuple[str, str]:
    """(metric, 'higher' or 'lower') that the study decides by. Raises UsageError where the task ranks by no such."""
    better = study.resolved(done[0].arm, done[0].seed).task.better
    figures = done[0].points[0].figures
    ranked = {name: way for name, way in better.items() if name in figures}
    if study.metric is None and not ranked:
        raise UsageError("the task of this study ranks results by no metric: name one that it gives as `better`.")
    metric = study.metric if study.metric is not None else next(iter(ranked))
    if metric not in ranked:
        raise UsageError(
            f"the study's metric {metric!r} is none that its task ranks results by: one of {', '.join(ranked)} is "
            "expected."
        )
    return metric, ranked[metric]
