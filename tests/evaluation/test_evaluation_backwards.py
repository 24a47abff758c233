"""The scores of a model run backwards, on readings that are known."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bridgeflow import registry
from bridgeflow.assembly import assemble
from bridgeflow.config import recipe as recipes
from bridgeflow.data.pairs import Examples
from bridgeflow.errors import UsageError
from bridgeflow.evaluation import backwards, runner
from bridgeflow.evaluation.backwards import backward_scores
from bridgeflow.inference.pipeline import Pipeline

RED, BLUE = "a large red cube", "a small blue sphere"
SMALL = ["target.size=16", "target.codec={name: pixels}", "network={name: unet, channels: [8], blocks: 1}"]


def pipeline(recipe: str = "t2i/blocks", *overrides: str) -> Pipeline:
    assembly = assemble(recipes.load(recipe, [*SMALL, *overrides]))
    torch.manual_seed(0)
    return Pipeline(assembly, assembly.build_bridge())


def picture(shade: int) -> np.ndarray[Any, Any]:
    return np.full((16, 16, 3), shade, np.uint8)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that reads a picture's shade: RED of dark ones, BLUE of bright ones."""
    caption = registry.load("task", "caption")

    def generate(targets: Sequence[Any], seed: int = 0, on_progress: Any = None) -> list[list[str]]:
        if on_progress is not None:
            on_progress(len(targets), len(targets))
        return [[RED if own.mean() < 128 else BLUE] for own in targets]

    def turned(own: Pipeline) -> Any:
        source, target = own.assembly.target, own.assembly.source
        task = caption(caption.Options(), source, target)
        return SimpleNamespace(assembly=SimpleNamespace(task=task), generate=generate)

    monkeypatch.setattr(backwards, "reversed_pipeline", turned)


def test_true_targets_and_own_results_are_read_apart(reads: None) -> None:
    examples = Examples([RED, BLUE], [picture(0), picture(255)], [{"text": RED}, {"text": BLUE}])
    done: list[tuple[int, int]] = []
    found = backward_scores(pipeline(), examples, [picture(0), picture(10)], on_progress=lambda *own: done.append(own))
    assert found.figures["reverse_exact_match"] == 1.0
    assert found.figures["cycle_exact_match"] == 0.5
    assert found.figures["cycle_object_accuracy"] == 0.5
    assert found.without.keys() == found.figures.keys()
    assert done == [(2, 4), (4, 4)]


@pytest.mark.parametrize("thorough", [False, True])
def test_a_report_has_them_beside_the_task_s_own(reads: None, thorough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = pipeline()
    monkeypatch.setattr(own.assembly.task, "thorough", lambda *_: None)
    examples = Examples([RED, BLUE] * 2, [picture(0), picture(255)] * 2, [{"text": RED}, {"text": BLUE}] * 2)
    report = runner.report_on(own, examples, None, thorough=thorough, backwards=True)
    assert report.figures["reverse_exact_match"] == 1.0
    assert {"object_accuracy", "cycle_exact_match"} <= set(report.figures)
    assert ("reverse_exact_match" in report.intervals()) == thorough
    assert "reverse_exact_match" not in runner.report_on(own, examples, None).figures


def test_a_model_that_attends_has_no_way_back() -> None:
    with pytest.raises(UsageError, match="cannot be run backwards"):
        backward_scores(pipeline(), Examples([RED], [picture(0)], [{"text": RED}]), [picture(0)])
