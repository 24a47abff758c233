"""Trains and scores the runs of a study, those that are not done yet."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bridgeflow import registry
from bridgeflow.assembly.preparing import open_rows
from bridgeflow.checkpoints.checkpoint import Checkpoint, list_checkpoints, open_checkpoint
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.pairs import Examples, read_examples
from bridgeflow.errors import BridgeflowError
from bridgeflow.evaluation.scoring import generate, scores_of
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.registry import blame
from bridgeflow.runtime.console import Progress
from bridgeflow.runtime.lock import FolderHeld, FolderLock
from bridgeflow.runtime.randomness import seed_of
from bridgeflow.sentences import tidy
from bridgeflow.study.deciding import check_decidable
from bridgeflow.study.results import Failed, Point, RunResult, fingerprint, finite, training_fingerprint
from bridgeflow.study.settings import StudySettings
from bridgeflow.training import start


@dataclass(frozen=True)
class Planned:
    """A run of a study and where it stands. done: None where it has still to be trained or scored. failed: why it could
    not be when it was last tried; None where it was not, or has changed since."""

    arm: str
    seed: int
    recipe: Recipe
    scales: tuple[float, ...]
    trained: str
    """Fingerprint of the training, which arms that are scored in different ways may share."""
    fingerprint: str
    done: RunResult | None
    failed: Failed | None = None


def _name(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


def _result_file(folder: Path, arm: str, seed: int) -> Path:
    return folder / "results" / f"{_name(arm, seed)}.json"


def _failure_file(folder: Path, arm: str, seed: int) -> Path:
    return folder / "failures" / f"{_name(arm, seed)}.json"


def planned(study: StudySettings, folder: Path) -> list[Planned]:
    """Every run of the study in its order. Raises UsageError where a recipe does not fit, where the arms are of several
    tasks, and where the metric is none of the task's."""
    recipes = {(arm, seed): study.resolved(arm, seed) for arm, seed in study.runs()}
    check_decidable(study, {arm: recipe for (arm, _), recipe in recipes.items()})
    runs = []
    for (arm, seed), recipe in recipes.items():
        scales = study.scales(arm, recipe)
        trained = training_fingerprint(recipe, study.arms[arm].weak_step)
        own = fingerprint(trained, study.scoring, scales, recipe.sampling)
        done = _result(folder, arm, seed, own)
        if done is not None:
            # Results that were written before this was noted in them share trainings too.
            done = replace(done, trained=trained)
        failed = None if done is not None else Failed.read(_failure_file(folder, arm, seed))
        failed = failed if failed and failed.fingerprint == own else None
        runs.append(Planned(arm, seed, recipe, scales, trained, own, done, failed))
    return runs


def _result(folder: Path, arm: str, seed: int, own: str) -> RunResult | None:
    found = RunResult.read(_result_file(folder, arm, seed))
    return found if found and found.fingerprint == own else None


def carry_out(
    study: StudySettings, folder: Path, console: Progress, device: str | None = None, minutes: float | None = None
) -> Iterator[RunResult | Failed]:
    """Trains and scores what is not done, run by run; after `minutes` it begins no other.

    A run that was stopped goes on where it was saved. What another process is at is left to it. One that fails is noted
    and keeps no other from its turn. Raises Interrupted where a training was stopped by a signal.
    """
    started, begun, elsewhere = time.monotonic(), 0, []
    spoilt: dict[str, Failed] = {}
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
            try:
                outcome = _outcome(study, run, folder, console, device, spoilt)
            except FolderHeld:
                elsewhere.append(_name(run.arm, run.seed))
                continue
            failure = _failure_file(folder, run.arm, run.seed)
            if isinstance(outcome, Failed):
                outcome.save(failure)
            else:
                outcome.save(_result_file(folder, run.arm, run.seed))
                failure.unlink(missing_ok=True)
        yield outcome
    if elsewhere:
        console.say(f"left to the process that is at it: {', '.join(elsewhere)}.")


class Interrupted(BridgeflowError):
    """A training of the study was stopped by a signal."""


def _outcome(
    study: StudySettings, run: Planned, folder: Path, console: Progress, device: str | None, spoilt: dict[str, Failed]
) -> RunResult | Failed:
    """How a run went. spoilt: the trainings that failed, by fingerprint, which no arm that shares one tries again."""
    if run.trained in spoilt:
        return replace(spoilt[run.trained], arm=run.arm, seed=run.seed, fingerprint=run.fingerprint)
    trained = False
    try:
        place = _place(folder, run)
        checkpoint = _trained(run, place, folder, console, device)
        trained = True
        return _scored(study, run, place, checkpoint, console, device)
    except (Interrupted, FolderHeld):
        raise
    # Whatever it is, hours of other arms do not have to wait for its fix.
    except Exception as error:
        console.clear()
        failed = Failed(run.arm, run.seed, run.fingerprint, _why(error), "".join(traceback.format_exception(error)))
        if not trained:
            spoilt[run.trained] = failed
        return failed


def _why(error: Exception) -> str:
    if isinstance(error, BridgeflowError):
        return str(error)
    return blame.sentence_on(error) or tidy(
        f"something unforeseen went wrong ({registry.one_line(error)}): report what stands under `trace` in the file "
        "of the run in `failures`."
    )


def _trained(run: Planned, place: Path, folder: Path, console: Progress, device: str | None) -> Checkpoint:
    """The last checkpoint of the run, trained as far as it still has to be."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    saved = list_checkpoints(place / "checkpoints")
    before = open_checkpoint(place, thorough=True) if saved else None
    quiet = run.recipe.changed(training={"evaluate": 0})
    if before is None or before.step < quiet.training.steps:
        done = start.train(quiet, str(place), before, device, console)
        if done.outcome.signal is not None:
            raise Interrupted(f"the study was stopped by {done.outcome.signal}: the same command goes on with it.")
    return open_checkpoint(place)


def _scored(
    study: StudySettings, run: Planned, place: Path, checkpoint: Checkpoint, console: Progress, device: str | None
) -> RunResult:
    pipeline = Pipeline.of(checkpoint, device)
    # The checkpoint bears the sampling of the arm that it was first trained for.
    pipeline.sampling = run.recipe.sampling
    weak_step = study.arms[run.arm].weak_step
    if weak_step is not None:
        pipeline.guide_by(place / "checkpoints" / f"{weak_step:06d}")
    examples = _examples(study, run.recipe, pipeline, console)
    points = tuple(_points(study, run, pipeline, examples, console))
    weights = sum(own.numel() for own in pipeline.bridge.parameters() if own.requires_grad)
    seconds = _trained_seconds(place, run.recipe)
    return RunResult(run.arm, run.seed, run.fingerprint, weights, checkpoint.step, seconds, points, run.trained)


def _place(folder: Path, run: Planned) -> Path:
    """Folder of the training, which bears the name of the first arm that needed it."""
    there = sorted((folder / "runs").glob(f"*-{run.trained[:8]}"))
    return there[0] if there else folder / "runs" / f"{_name(run.arm, run.seed)}-{run.trained[:8]}"


def _examples(study: StudySettings, recipe: Recipe, pipeline: Pipeline, console: Progress) -> Examples:
    rows = open_rows(recipe, "held_out", console)
    found = read_examples(rows, pipeline.assembly.task, recipe.columns, study.scoring.count)
    if len(found.sources) < 2:
        raise BridgeflowError(
            f"{rows.description}: too few held-out rows can be read to score on; {recipe.data.to_hold_out}."
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
        generated = generate(pipeline, sampling, examples, seeds)
        scores = scores_of(pipeline.assembly.task, generated.results, examples)
        without = {name: [own if math.isfinite(own) else None for own in left] for name, left in scores.without.items()}
        yield Point(steps, scale, generated.evaluations, finite(scores.figures), without)
    console.clear()


def _trained_seconds(place: Path, recipe: Recipe) -> float:
    """Seconds of training by the run's own log, over all times that it was started."""
    pairs = recipe.training.batch_size * recipe.training.accumulation
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
