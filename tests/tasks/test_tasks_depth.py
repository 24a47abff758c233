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


def depth_task(**overrides: Any) -> Task:
    keys = [f"{key}={value}" for key, value in overrides.items()]
    return assemble(recipes.load("depth/blocks", keys)).task


def test_a_pixel_without_a_spread_is_a_certain_one() -> None:
    task = depth_task()
    truth, result = np.full((4, 4), 2.0, np.float32), np.full((4, 4), 2.5, np.float32)
    truth[0, 0] = np.nan
    spread = np.zeros((4, 4), np.float32)
    spread[3, 3] = 0.7
    found = task.errors(result, spread, truth)
    assert found is not None
    error, stated = found
    assert error.shape == stated.shape == (15,)
    assert np.allclose(error, 0.5)
    assert stated.tolist() == [0.0] * 14 + [pytest.approx(0.7)]
    # Of another size than the truth.
    found = task.errors(np.full((2, 2), 2.5, np.float32), np.zeros((2, 2), np.float32), truth)
    assert found is not None
    assert (found[1] == 0).all()


@pytest.mark.parametrize("alignment", ["scale_and_shift", "disparity"])
def test_spreads_of_relative_depth_are_brought_to_metres(alignment: str) -> None:
    """As the difference between the results of two samples is, to first order."""
    task = depth_task(**{"options.alignment": alignment})
    rng = np.random.default_rng(0)
    result = rng.uniform(0.2, 0.9, (6, 6)).astype(np.float32)
    truth = (8 * result + 1 if alignment == "scale_and_shift" else 1 / (0.4 / result + 0.05)).astype(np.float32)
    step = np.full((6, 6), 1e-3, np.float32)
    found = task.errors(result, step, truth)
    assert found is not None
    after = 8 * (result + step) + 1 if alignment == "scale_and_shift" else 1 / (0.4 / (result + step) + 0.05)
    assert np.allclose(found[1], np.abs(after - truth).ravel(), rtol=0.02)
    assert np.allclose(found[0], 0, atol=1e-4)
