"""Which rows are scored on."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bridgeflow.data.pairs import MOST_IN_ORDER, read_examples
from bridgeflow.errors import BridgeflowError
from bridgeflow.settings import Settings
from bridgeflow.task import Task


class Doubled(Task):
    columns = {"number": "a whole number"}

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[int, int]:
        if row["number"] < 0:
            raise BridgeflowError("it is negative.")
        return row["number"], 2 * row["number"]


class Listed:
    columns = ("number",)
    fingerprint = description = "numbers"

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"number": self.numbers[index]}


@pytest.fixture
def task() -> Task:
    number = SimpleNamespace(column="number", textual=False, reads=())
    number.parts = lambda place: {place: number}
    return Doubled(Settings(), number, number)  # type: ignore[arg-type]


def test_as_many_rows_as_asked_for_are_those_that_can_be_read(task: Task) -> None:
    found = read_examples(Listed([*[-1] * 300, 5, -1, 6, 7]), task, {}, 2)
    assert (found.sources, found.truths) == ([5, 6], [10, 12])
    assert len(found.unreadable) == 301
    assert [row["number"] for row in found.rows] == [5, 6]


def test_rows_of_which_none_can_be_read_are_not_all_tried(task: Task) -> None:
    found = read_examples(Listed([-1] * 5000), task, {}, 2)
    assert found.sources == []
    assert len(found.unreadable) == MOST_IN_ORDER
