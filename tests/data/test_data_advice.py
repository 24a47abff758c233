"""What modalities say of the first rows of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from bridgeflow.data import advice as module
from bridgeflow.data.advice import MOST_ROWS, advice
from bridgeflow.task import Task

Make = Callable[[list[int]], Any]


def ask_target(task: Task, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Lets the target modality answer with what it is asked; the items of each call."""
    asked: list[list[Any]] = []

    def advise(self: Any, items: Iterable[Any], side: str) -> list[str]:
        asked.append(list(items))
        return [f"{len(asked[-1])} items of the {side}"]

    # The two modalities of this task are of one class.
    monkeypatch.setattr(task, "to_modality", type("Talking", (type(task.to_modality),), {"advise": advise})(None))
    return asked


def test_only_a_modality_with_something_to_say_is_asked_about_rows_that_can_be_read(
    rows: Make, squares: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask_target(squares, monkeypatch)
    assert advice(rows([3, -1, 5, 7]), squares, {}) == ["3 items of the target"]
    assert len(asked) == 1
    assert advice(rows([3, -1, 5, 7]), squares, {}, limit=2) == ["of the first 2 rows, 1 items of the target"]


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_so_many_rows_are_looked_at_and_no_more(
    kind: str, request: pytest.FixtureRequest, squares: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_target(squares, monkeypatch)
    many = request.getfixturevalue(kind)(list(range(500)))
    assert advice(many, squares, {}) == [f"of the first {MOST_ROWS} rows, {MOST_ROWS} items of the target"]
    monkeypatch.setattr(module, "MOST_SECONDS", -1.0)
    assert advice(many, squares, {}) == [f"of the first {MOST_ROWS} rows, 1 items of the target"]


def test_modalities_have_nothing_to_say_by_default_and_no_row_is_read(squares: Task) -> None:
    assert advice(None, squares, {}) == []  # type: ignore[arg-type]
