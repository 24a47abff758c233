"""Finds how to sample from a checkpoint: solver, grid of times, steps and guidance, by quality against cost.

Every setting is given the same held-out examples with the same seeds, so that settings are compared pair by pair. First
the scales of guidance are tried roughly, on a part of the examples; then the numbers of steps with the best two; then
the other solvers and grids around the cheapest setting that is good enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridgeflow import registry
from bridgeflow.config.keys import SamplingSettings
from bridgeflow.data.encoding import encode
from bridgeflow.data.pairs import Examples
from bridgeflow.errors import UsageError
from bridgeflow.evaluation.intervals import Scores, score
from bridgeflow.evaluation.scoring import generate, scores_of
from bridgeflow.evaluation.trials import Trial, Tuning, described, is_guided
from bridgeflow.flow.solver import HeunSettings, SolverSettings
from bridgeflow.inference.adjusting import guided, with_solver
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Item
from bridgeflow.runtime.randomness import seed_of

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 25, 50)
"""Evaluations of the network that are tried."""
SCALES = (1.0, 1.5, 2.0, 3.0, 4.5, 6.0)
"""Scales of guidance that are tried where the model was trained for it."""
ROUGH_PART = 4
"""The rough look takes one in as many of the examples, but at least LEAST."""
LEAST = 16
DEVIATION = "deviation"
"""Metric of a task without any: how far the latents of the results are from those of REFERENCE_STEPS Heun steps, as a
share of their own spread."""
ADAPTIVE_EVALUATIONS = 6
"""Evaluations that a step of an adaptive solver is counted as."""
REFERENCE_STEPS = 50

OnTrial = Callable[[float, str], None]
"""Called with the share that is done, in [0, 1], and with what is tried now."""


def metric_of(pipeline: Pipeline, figures: Mapping[str, float], wanted: str | None) -> tuple[str, str]:
    """(metric, 'higher' or 'lower') to tune by. Raises UsageError where the wanted one is not ranked by the task."""
    better = {name: way for name, way in pipeline.assembly.task.better.items() if name in figures}
    if wanted is None:
        return next(iter(better.items())) if better else (DEVIATION, "lower")
    if wanted == DEVIATION:
        return DEVIATION, "lower"
    if wanted not in better:
        raise UsageError(
            f"metric {wanted!r} is none that task {pipeline.assembly.recipe.task_name!r} ranks results of these data "
            f"by: one of {', '.join([*better, DEVIATION])} is expected."
        )
    return wanted, better[wanted]


class _Trials:
    """Tries settings on examples; each once."""

    def __init__(self, pipeline: Pipeline, examples: Examples, seed: int, metric: str, on_trial: OnTrial) -> None:
        self.pipeline = pipeline
        self.examples = examples
        self.metric = metric
        self.seeds = [seed_of(seed, index) for index in range(len(examples.sources))]
        self.done: dict[tuple[SamplingSettings, int], Trial] = {}
        self.on_trial = on_trial
        self.spent = 0
        self.planned = 1
        self.shown = 0.0
        self._references: dict[Any, list[Any]] = {}

    def plan(self, settings: Sequence[SamplingSettings], count: int) -> None:
        """Counts work to come."""
        self.planned += sum(_rows_of(own) * count for own in settings if (own, count) not in self.done)

    def of(self, sampling: SamplingSettings, count: int) -> Trial:
        """The trial of a setting on the first `count` examples."""
        if (sampling, count) not in self.done:
            self.shown = max(self.shown, min(1.0, self.spent / self.planned))
            self.on_trial(self.shown, described(sampling))
            generated = generate(self.pipeline, sampling, self.examples, self.seeds[:count])
            scores = self._scores(sampling, generated.results)
            self.done[sampling, count] = Trial(sampling, scores, self.metric, generated.evaluations, generated.seconds)
            self.spent += _rows_of(sampling) * count
        return self.done[sampling, count]

    def _scores(self, sampling: SamplingSettings, results: list[Item]) -> Scores:
        if self.metric == DEVIATION:
            distances = self._deviations(sampling, results)
            return score(lambda rows: {DEVIATION: math.fsum(distances[i] for i in rows) / len(rows)}, len(results))
        return scores_of(self.pipeline.assembly.task, results, self.examples)

    def _deviations(self, sampling: SamplingSettings, results: list[Item]) -> list[float]:
        """The distance of each result from the one of many steps with the same guidance, as a share of the spread."""
        exact = HeunSettings(steps=REFERENCE_STEPS)
        reference = sampling.model_copy(update={"solver": exact, "grid": None})
        key = (reference, len(results))
        if key not in self._references:
            generated = generate(self.pipeline, reference, self.examples, self.seeds[: len(results)])
            self._references[key] = self._latents(generated.results)
        truths = self._references[key]
        mean = sum(truths) / len(truths)
        spread = math.sqrt(sum(float((own - mean).square().mean()) for own in truths) / len(truths)) or 1.0
        return [
            float((own - truth).square().mean().sqrt()) / spread
            for own, truth in zip(self._latents(results), truths, strict=True)
        ]

    def _latents(self, items: list[Item]) -> list[Any]:
        target = self.pipeline.assembly.target
        device = self.pipeline.stages.device
        return [encode(target, target.collate([item]), device).mean[0].cpu() for item in items]


def _rows_of(sampling: SamplingSettings) -> int:
    """About as many rows as the network sees for a result."""
    evaluations = (sampling.solver.evaluations_per_step or ADAPTIVE_EVALUATIONS) * sampling.solver.steps
    return evaluations * (2 if is_guided(sampling) else 1)


def tune(
    pipeline: Pipeline,
    examples: Examples,
    fresh: Examples,
    metric: str | None = None,
    tolerance: float = 0.01,
    most: int = 25,
    scales: Sequence[float] | None = None,
    seed: int = 0,
    on_trial: OnTrial = lambda share, what: None,
) -> Tuning:
    """Tries settings of sampling on `examples`, and the chosen one again on `fresh` ones.

    metric: one of the task's `better`, or 'deviation'; the task's first by default. tolerance: how much worse than the
    best the chosen setting may be, as a share of the best value; a difference below its own standard error is let pass
    too (the rule of one standard error, Breiman et al. 1984). most: the most evaluations of the network. scales: those
    of guidance; 1 is none.

    Raises UsageError where the metric is none, or where guidance is asked for of a model without it.
    """
    count = len(examples.sources)
    present = pipeline.sampling
    truth = pipeline.assembly.task.metrics(examples.truths, examples.truths, examples.sources, examples.rows)
    chosen_metric, way = metric_of(pipeline, truth, metric)
    trials = _Trials(pipeline, examples, seed, chosen_metric, on_trial)
    scales = _scales(pipeline, scales, chosen_metric)
    ladder = sorted({*(own for own in LADDER if own <= most), most})
    sign = 1.0 if way == "lower" else -1.0

    def worse(trial: Trial) -> float:
        return math.inf if math.isnan(trial.value) else sign * trial.value

    # Which scales of guidance: the best value that each reaches at any length, on some of the examples.
    rough = min(count, max(LEAST, count // ROUGH_PART))
    later = [_with(present, "euler", number, scale) for scale in scales[:2] for number in ladder]
    # What is tried around the choice is not known yet: about as much as one ladder.
    trials.plan([present, *later], count)
    trials.planned += sum(ladder[: len(ladder) // 2 + 1]) * count * 3
    if len(scales) > 2:
        steps = sorted({*ladder[1::3], most})
        looks = {scale: [_with(present, "euler", number, scale) for number in steps] for scale in scales}
        trials.plan([own for each in looks.values() for own in each], rough)
        scales = sorted(scales, key=lambda scale: min(worse(trials.of(own, rough)) for own in looks[scale]))[:2]

    full = [trials.of(present, count)]
    full += [trials.of(_with(present, "euler", number, scale), count) for scale in scales for number in ladder]
    cheap = _cheapest(full, worse, tolerance)
    scale = cheap.sampling.guidance.scale if is_guided(cheap.sampling) else 1.0
    around = _around(ladder, cheap.evaluations)
    others = [
        _with(present, name, number // each, scale, grid)
        for name, each in _solvers().items()
        for grid in _grids(pipeline, present)
        for number in around
        if number % each == 0 and _is_possible(pipeline, grid, number // each)
        # Its first step is Euler's.
        if not (name == "ab2" and number == 1)
    ]
    trials.planned = trials.spent
    trials.plan(others, count)
    full += [trials.of(own, count) for own in others]
    unique = list({trial.sampling: trial for trial in full}.values())
    unique.sort(key=lambda trial: (trial.cost, worse(trial)))
    best = min(unique, key=worse)
    chosen = _cheapest(unique, worse, tolerance)
    found = Tuning(chosen_metric, way, tolerance, count, unique, full[0], best, chosen)
    if fresh.sources:
        again = _Trials(pipeline, fresh, seed_of(seed, "fresh"), chosen_metric, on_trial)
        named = {"present": full[0], "best": best, "chosen": chosen}
        again.plan([own.sampling for own in named.values()], len(fresh.sources))
        found.fresh = len(fresh.sources)
        found.confirmed = {name: again.of(own.sampling, found.fresh) for name, own in named.items()}
    return found


def _cheapest(trials: Sequence[Trial], worse: Callable[[Trial], float], tolerance: float) -> Trial:
    """The cheapest trial that is hardly worse than the best; of two that cost the same the better."""
    best = min(trials, key=worse)
    if not math.isfinite(best.value):
        return min(trials, key=lambda trial: (worse(trial), trial.cost))

    def is_enough(trial: Trial) -> bool:
        allowed = tolerance * abs(best.value)
        beside = trial.scores.error_beside(best.scores, trial.metric)
        return worse(trial) - worse(best) <= max(allowed, beside if math.isfinite(beside) else 0.0)

    return min(filter(is_enough, trials), key=lambda trial: (trial.cost, worse(trial)))


def _around(ladder: Sequence[int], evaluations: int) -> list[int]:
    """The cheaper, the same and the dearer number of evaluations; even ones too, which solvers of two need."""
    nearest = min(range(len(ladder)), key=lambda place: abs(ladder[place] - evaluations))
    numbers = ladder[max(0, nearest - 1) : nearest + 2]
    return sorted({*numbers, *(number + 1 for number in numbers if number % 2 and number + 1 <= ladder[-1])})


def _solvers() -> dict[str, int]:
    """Name and evaluations per step of the installed solvers whose cost is known before, and that draw nothing."""
    found: dict[str, int] = {}
    for plugin in registry.installed("solver"):
        kind: type[SolverSettings] = registry.loaded(plugin)
        if kind.evaluations_per_step is not None and not kind.stochastic:
            found[plugin.name] = kind.evaluations_per_step
    return found


def _grids(pipeline: Pipeline, present: SamplingSettings) -> list[str | None]:
    """The grids that differ: the present one, and those of the other kinds."""
    time = pipeline.assembly.recipe.keys.time
    own = present.grid or time.grid
    kinds = ["uniform"] if time.density == "uniform" else ["uniform", "density"]
    return [present.grid, *(kind for kind in kinds if kind != own)]


def _is_possible(pipeline: Pipeline, grid: str | None, steps: int) -> bool:
    time = pipeline.assembly.recipe.keys.time
    try:
        (time if grid is None else time.model_copy(update={"grid": grid})).solver_grid(steps)
    except UsageError:
        return False
    return True


def _scales(pipeline: Pipeline, given: Sequence[float] | None, metric: str) -> list[float]:
    guidance = pipeline.sampling.guidance
    present = guidance.scale if is_guided(pipeline.sampling) else 1.0
    if given is None:
        # What the exact flow gives cannot say which flow is the better one.
        fixed = metric == DEVIATION or pipeline.assembly.recipe.keys.null_rate == 0
        return [present] if fixed else sorted({present, *SCALES})
    for scale in given:
        pipeline.adjusted(guidance=scale)
    return sorted(set(given))


def _with(
    present: SamplingSettings, solver: str, steps: int, scale: float, grid: str | None = None
) -> SamplingSettings:
    """The present sampling with another solver, scale and grid; None keeps the present grid."""
    return present.model_copy(
        update={
            "solver": with_solver(present.solver, solver, steps),
            "guidance": guided(present.guidance, scale),
            "grid": grid or present.grid,
        }
    )
