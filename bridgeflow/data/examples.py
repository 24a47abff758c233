"""`examples:TASK`: rows that a task makes up, so that it can be trained before there is any data."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from bridgeflow import registry
from bridgeflow.data.rows import DataSettings, Rows, Split
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress


class ExampleRows:
    """Row `index` of a task, seed and split: always the same one."""

    def __init__(self, task: str, count: int, seed: int, split: Split) -> None:
        self.maker = registry.load("task", task)
        self.columns = tuple(self.maker.columns)
        self.count = count
        self.seed = (seed, 0 if split == "train" else 1)
        self.description = f"{count:,} made-up rows of {task}"
        self.fingerprint = f"examples-{task}-{count}-{seed}-{split}"
        missing = [column for column in self.columns if column not in self[0]]
        if missing:
            raise BridgeflowError(
                f"the made-up rows of the task {task!r} lack the column {missing[0]!r}: its method `example` "
                "gives every column that the task declares."
            )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.maker.example(np.random.default_rng((*self.seed, index)))
        return row


class Examples(DataSettings):
    """Rows made up by the task's own method `example`, each drawn anew when it is read."""

    summary: ClassVar[str] = "examples:TASK, rows that the task makes up"
    at_hand: ClassVar[bool] = True
    of_files: ClassVar[bool] = False
    task: str
    """The task whose method `example` makes them, by its registered name."""
    size: int = Field(default=4096, ge=1)
    """Training rows."""
    held_out: int = Field(default=256, ge=1)
    """Rows kept out of training, drawn apart from the training rows."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Which rows: row i of a seed is always the same."""

    @classmethod
    def at(cls, location: str) -> dict[str, Any]:
        """`examples:TASK`."""
        return {"task": location}

    def open(self, split: Split, progress: Progress | None = None) -> Rows:
        """Raises BridgeflowError where the task makes up no rows, or rows that lack a column."""
        return ExampleRows(self.task, self.size if split == "train" else self.held_out, self.seed, split)
