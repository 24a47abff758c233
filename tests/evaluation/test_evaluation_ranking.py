"""Which examples are the worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bridgeflow.data.pairs import Examples
from bridgeflow.evaluation.runner import Report, _judge
from bridgeflow.task import Task


class Given(Task):
    """A result is its own figure."""

    def metrics(
        self,
        results: Sequence[Any],
        truths: Sequence[Any],
        sources: Sequence[Any],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        counted = [value for value in results if not math.isnan(value)]
        return {"error": sum(counted) / len(counted) if counted else math.nan}


@pytest.mark.parametrize(("way", "order"), [("lower", [1, 3, 0, 2]), ("higher", [1, 2, 0, 3])])
def test_what_has_no_figure_is_the_worst(monkeypatch: pytest.MonkeyPatch, way: str, order: list[int]) -> None:
    monkeypatch.setattr(Given, "better", {"error": way})
    results = [2.0, math.nan, 1.0, 3.0]
    task = Given.__new__(Given)
    report = Report(4, 1, {})
    _judge(report, task, results, Examples(results, results, [{}] * 4))
    assert report.ranked == order
    assert report.figures["error"] == 2.0
