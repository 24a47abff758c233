"""Items that were costly to read, kept in memory up to a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class ItemCache:
    """Keeps the arrays read from files while they fit into `budget` bytes; what does not fit is read each time."""

    def __init__(self, budget: int) -> None:
        self.left = budget
        self._kept: dict[Path, npt.NDArray[Any]] = {}

    def get(self, value: Any, read: Callable[[Any], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """`read(value)`, or what it gave before where `value` is a path."""
        if not isinstance(value, Path):
            return read(value)
        if value not in self._kept:
            item = np.ascontiguousarray(read(value))
            if item.nbytes > self.left:
                return item
            self.left -= item.nbytes
            self._kept[value] = item
        return self._kept[value]
