"""The cache of items: what fits its budget is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bridgeflow.data.item_cache import ItemCache


class Reader:
    """Reads 8 bytes and counts how often."""

    def __init__(self) -> None:
        self.read: list[Any] = []

    def __call__(self, value: Any) -> npt.NDArray[Any]:
        self.read.append(value)
        return np.full(8, len(self.read), dtype=np.uint8)


def test_file_is_read_once_while_it_fits() -> None:
    cache, reader = ItemCache(16), Reader()
    for name in ("a", "b", "a", "b"):
        cache.get(Path(name), reader)
    assert reader.read == [Path("a"), Path("b")]
    assert cache.get(Path("b"), reader)[0] == 2
    assert cache.left == 0


def test_what_does_not_fit_is_read_each_time_and_displaces_nothing() -> None:
    cache, reader = ItemCache(15), Reader()
    for name in ("a", "b", "b", "a"):
        cache.get(Path(name), reader)
    assert reader.read == [Path("a"), Path("b"), Path("b")]
    assert cache.left == 7


def test_only_files_are_kept() -> None:
    cache, reader = ItemCache(100), Reader()
    for value in ("text", b"bytes", "text"):
        cache.get(value, reader)
    assert len(reader.read) == 3
    assert cache.left == 100


def test_kept_arrays_own_their_memory() -> None:
    whole = np.zeros((100, 100), dtype=np.uint8)
    kept = ItemCache(100).get(Path("a"), lambda value: whole[::10, ::10])
    assert kept.base is None
    assert kept.flags.c_contiguous
