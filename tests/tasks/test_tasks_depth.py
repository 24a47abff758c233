"""Depth that is measured so sparsely that nothing of it is left at the model's size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bridgeflow.assembly import assemble
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import BridgeflowError
from bridgeflow.task import Task

SHAPE = (256, 384)


def task(*overrides: str) -> Task:
    return assemble(recipes.load("depth/folder", overrides)).task


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def scattered() -> np.ndarray:
    """Lidar: one pixel in twenty."""
    return np.where(rng().random(SHAPE) < 0.05, np.float32(7), np.float32(0))


def scanlines() -> np.ndarray:
    """A rotating sensor: every eighth row."""
    depth = np.zeros(SHAPE, np.float32)
    depth[::8] = 7
    return depth


def row(depth: np.ndarray) -> dict[str, Any]:
    return {"image": np.zeros((*SHAPE, 3), np.uint8), "depth": depth}


@pytest.mark.parametrize("measured", [scattered, scanlines])
def test_a_row_without_a_valid_pixel_after_resizing_is_unusable(measured: Any) -> None:
    with pytest.raises(BridgeflowError, match=r"no pixel counts at the model's 64x64.* set target.coverage=0"):
        task().pair(row(measured()), rng())
    _, depth = task("target.coverage=0").pair(row(measured()), rng())
    assert np.nanmax(depth) == 7
    # At the size of the map itself every measurement counts.
    task("source.size=[256,384]", "target.size=[256,384]").pair(row(measured()), rng())


def test_sparse_truths_are_scored_at_their_own_size() -> None:
    _, truth = task().held_out_pair(row(scattered()), rng())
    figures = task().metrics([np.full((64, 64), 7, np.float32)], [truth], [], [{}])
    assert figures["abs_rel"] == pytest.approx(0, abs=1e-6)


def test_the_constant_map_of_sparse_depth_counts_what_training_counts() -> None:
    sparse = task("target.coverage=0")
    _, depth = sparse.pair(row(scattered()), rng())
    found = sparse.baseline([depth], [], [depth])
    assert found is not None
    assert found[1][0].max() == pytest.approx(7)
