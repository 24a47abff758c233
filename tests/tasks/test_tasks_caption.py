"""Captioning is scored against all captions of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bridgeflow.assembly import assemble
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import BridgeflowError
from bridgeflow.task import Task
from bridgeflow_plugins.text.captioning import CaptionScorer
from bridgeflow_tasks import caption
from bridgeflow_tasks.captions import all_captions


@pytest.fixture(scope="module")
def task() -> Task:
    return assemble(recipes.load("caption/blocks")).task


def test_the_best_of_all_captions_counts_whichever_was_drawn(task: Task) -> None:
    rows: list[dict[str, Any]] = [
        {"text": ["a red cube", "the cube is red"]},
        {"text": ("a dog", "two cats on a mat")},
        {"text": "a cone"},
    ]
    results = ["The cube  is red", "two cats", "a cube"]
    figures = task.metrics(results, ["a red cube", "a dog", "a cone"], [None] * 3, rows)
    assert figures["exact_match"] == pytest.approx(1 / 3)
    # 1; the better of 0 and 2 * 2 / 7; 2 * 1 / 4.
    assert figures["token_f1"] == pytest.approx((1 + 4 / 7 + 1 / 2) / 3)
    assert task.metrics(results, ["the cube is red", "two cats on a mat", "a cone"], [None] * 3, rows) == figures


def test_captions_that_cannot_be_read_are_no_references(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Sequence[Sequence[str]]] = []

    def scorer(results: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScorer:
        given.append(references)
        raise BridgeflowError("not now.")

    monkeypatch.setattr(caption, "CaptionScorer", scorer)
    rows: list[dict[str, Any]] = [{"text": ["a  red cube", "", None, b"a cube"]}, {"text": "a cone"}]
    found = task.thorough(["x", "y"], ["a red cube", "a cone"], [None, None], rows)
    assert given == [[["a red cube", "a cube"], ["a cone"]]]
    assert found is not None
    assert found.notes == ["not now."]


def test_a_row_without_captions_is_told(task: Task) -> None:
    with pytest.raises(BridgeflowError, match="list of captions is empty"):
        all_captions([], task.to_modality.read)
    with pytest.raises(BridgeflowError, match="expected a text, not int"):
        all_captions([3], task.to_modality.read)
