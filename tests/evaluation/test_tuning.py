"""The search for sampling, on a pipeline whose quality is known for every setting."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from bridgeflow.assembly import assemble
from bridgeflow.config import layers
from bridgeflow.config import recipe as recipes
from bridgeflow.config.keys import SamplingSettings
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.pairs import Examples
from bridgeflow.errors import UsageError
from bridgeflow.evaluation import trials, tuning
from bridgeflow.evaluation.tuning_picture import save_picture
from bridgeflow.inference.pipeline import Pipeline

ORDERS = {"euler": 1, "ab2": 2, "midpoint": 2, "heun": 2}


class Known:
    """Stands for a pipeline of depth: the error of a result falls with the evaluations by the solver's order, and is
    least at one scale of guidance."""

    def __init__(self, null_rate: float = 0.1, floor: float = 0.02, best_scale: float = 2.0, **rates: float) -> None:
        self.assembly = assemble(resolved(null_rate=null_rate))
        self.sampling = SamplingSettings()
        self.evaluations = 0
        self.stages = SimpleNamespace(weak=None)
        self.floor, self.best_scale, self.rates = floor, best_scale, rates
        self.tried: list[SamplingSettings] = []

    def adjusted(self, **changes: Any) -> SamplingSettings:
        return Pipeline.adjusted(cast(Pipeline, self), **changes)

    def error(self, sampling: SamplingSettings) -> float:
        method = sampling.solver.name
        evaluations = sampling.solver.steps * sampling.solver.evaluations_per_step
        scale = sampling.guidance.scale if trials.is_guided(sampling) else 1.0
        left = self.rates.get(method, 0.3) / evaluations ** ORDERS[method]
        return self.floor + left + 0.05 * (scale - self.best_scale) ** 2

    def generate(self, items: list[Any], seeds: list[int]) -> list[list[Any]]:
        self.tried.append(self.sampling)
        self.evaluations = self.sampling.solver.steps * self.sampling.solver.evaluations_per_step
        noise = [np.random.default_rng(seed).normal(0, 0.002) for seed in seeds]
        error = self.error(self.sampling)
        return [[np.full((16, 16), 2.0 * (1 + error + own), np.float32)] for own in noise]


def resolved(**changes: Any) -> Recipe:
    """The recipe of depth, at 16 pixels."""
    tree = layers.merge(layers.read("depth/blocks"), {"source": {"size": 16}, "target": {"size": 16}, **changes})
    return recipes.resolve(tree, "known")


def examples(count: int) -> Examples:
    pictures = [np.zeros((16, 16, 3), np.uint8)] * count
    return Examples(pictures, [np.full((16, 16), 2.0, np.float32)] * count, [{}] * count)


def tuned(pipeline: Known, **options: Any) -> trials.Tuning:
    return tuning.tune(cast(Pipeline, pipeline), examples(32), examples(0), **options)


def test_it_finds_the_scale_the_solver_and_the_fewest_steps() -> None:
    found = tuned(Known(best_scale=3.0, ab2=0.1), tolerance=0.05, most=25)
    assert found.metric == "abs_rel"
    assert found.chosen.sampling.guidance.scale == 3.0
    assert found.chosen.sampling.solver.name == "ab2"
    # 0.02 + 0.1 / n^2 comes within 5 % of the best at n = 8: 0.0216 against 0.0202 at 25, 0.0208 at 12 does.
    assert found.chosen.evaluations < found.best.evaluations
    assert found.chosen.value <= found.best.value * 1.05 + 1e-6
    assert found.chosen.cost == 2 * found.chosen.evaluations


def test_without_guidance_none_is_tried() -> None:
    pipeline = Known(null_rate=0.0, best_scale=1.0)
    found = tuned(pipeline)
    assert not any(trials.is_guided(sampling) for sampling in pipeline.tried)
    assert found.chosen.cost == found.chosen.evaluations
    with pytest.raises(UsageError, match=r"guidance needs a model trained with null_rate above 0"):
        tuned(pipeline, scales=[1.0, 2.0])


def test_a_model_that_one_step_serves_gets_one_step() -> None:
    found = tuned(Known(null_rate=0.0, best_scale=1.0, euler=0.0, ab2=0.0, midpoint=0.0, heun=0.0))
    assert (found.chosen.evaluations, found.chosen.sampling.solver.name) == (1, "euler")


def test_every_setting_has_the_same_draws_and_the_present_one_is_among_them() -> None:
    pipeline = Known(null_rate=0.0, best_scale=1.0)
    found = tuned(pipeline)
    assert found.present.sampling == SamplingSettings()
    assert found.present in found.trials
    # The noise of an example is the same in all, so that nothing of it is left in a difference.
    assert found.present.scores.error_beside(found.best.scores, "abs_rel") < 1e-6
    assert len({trial.sampling for trial in found.trials}) == len(found.trials)


def test_the_tolerance_decides() -> None:
    strict = tuned(Known(null_rate=0.0, best_scale=1.0), tolerance=0.0)
    loose = tuned(Known(null_rate=0.0, best_scale=1.0), tolerance=0.5)
    assert loose.chosen.cost < strict.chosen.cost
    assert strict.chosen.value == pytest.approx(strict.best.value, rel=1e-4)


def test_most_is_the_most() -> None:
    found = tuned(Known(null_rate=0.0, best_scale=1.0), most=5)
    assert max(trial.evaluations for trial in found.trials if trial is not found.present) == 5


def test_the_choice_is_confirmed_on_others() -> None:
    pipeline = Known(null_rate=0.0, best_scale=1.0)
    found = tuning.tune(cast(Pipeline, pipeline), examples(32), examples(16))
    assert found.fresh == 16
    assert set(found.confirmed) == {"present", "best", "chosen"}
    assert found.confirmed["chosen"].sampling == found.chosen.sampling
    assert found.json()["confirmed"]["examples"] == 16


def test_a_metric_has_to_be_ranked_by_the_task() -> None:
    assert tuned(Known(null_rate=0.0, best_scale=1.0), metric="delta_1.05").way == "higher"
    with pytest.raises(UsageError, match=r"metric 'sq_rel' is none .* one of abs_rel, .*, deviation is expected"):
        tuned(Known(), metric="sq_rel")


def test_the_deviation_serves_a_task_without_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = resolved(network={"channels": [8, 8], "attention": [], "blocks": 1})
    assembly = assemble(recipe)
    monkeypatch.setattr(type(assembly.task), "better", {})
    # Of a few random networks one step is nearer the exact flow than two.
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(256, size=(16, 16, 3), dtype=np.uint8) for _ in range(16)]
    own = Examples(pictures, [np.full((16, 16), 2.0, np.float32)] * 16, [{}] * 16)
    pipeline = Pipeline(assembly, assembly.build_bridge())
    for parameter in pipeline.bridge.parameters():
        parameter.data.normal_(0, 0.1)
    found = tuning.tune(pipeline, own, Examples(), most=6)
    by = {(t.sampling.solver.name, t.sampling.solver.steps, t.sampling.grid): t.value for t in found.trials}
    assert found.metric == "deviation"
    assert by["euler", 6, None] < by["euler", 2, None] < by["euler", 1, None]
    assert pipeline.sampling == recipe.sampling


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    found = tuned(Known(best_scale=2.0))
    save_picture(found, tmp_path / "tuning.png")
    with Image.open(tmp_path / "tuning.png") as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
        assert picture.size == (990, 550)
    assert len(colours) > 50
