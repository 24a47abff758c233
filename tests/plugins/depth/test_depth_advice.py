"""What is said of depth maps before training: depth out of range, and measurements that are lost by resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bridgeflow_plugins.depth import Depth
from bridgeflow_plugins.depth.pfm import decode_pfm, encode_pfm


def modality(normalisation: str = "log", **options: Any) -> Depth:
    ends = {} if normalisation == "affine" else {"near": 0.5, "far": 60.0}
    return Depth(Depth.Options(size=16, normalisation={"name": normalisation, **ends}, **options))


def maps(low: float, high: float, count: int = 3) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.uniform(low, high, (32, 48)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(800, 20_000, "to 19,"), (0, 1, "to 0.9"), (0.01, 0.3, "100% of the measured depth"), (90, 900, "to 88")],
    ids=["millimetres", "relative", "all nearer", "centimetres"],
)
@pytest.mark.parametrize("normalisation", ["log", "inverse", "linear"])
def test_depth_out_of_range_is_told(low: float, high: float, told: str, normalisation: str) -> None:
    items = [decode_pfm(encode_pfm(depth)) for depth in maps(low, high)]
    (sentence,) = modality(normalisation).advise(iter(items), "target")
    assert told in sentence
    for part in ("0.5 to 60 m", "unit", "target.png_scale", "target.normalisation.near", "affine"):
        assert part in sentence


def test_the_unit_of_whole_numbers_is_told_and_mended() -> None:
    stored = np.full((32, 48), 1024 * 20, np.uint16)
    assert modality().advise([modality().read(stored)], "target") == []
    assert "100%" in modality(png_scale=0.5).advise([modality(png_scale=0.5).read(stored)], "target")[0]


def test_nothing_is_said_of_depth_in_range_and_of_relative_depth_that_is_meant() -> None:
    assert modality().advise(maps(0.6, 50), "target") == []
    # A fifth beyond the end, such as far hills, is usual.
    assert modality().advise(maps(1, 70), "target") == []
    assert modality("affine").advise(maps(0, 1), "target") == []
    assert modality().advise(iter([]), "target") == []
    assert modality().advise([np.full((4, 4), np.nan, np.float32)], "target") == []


def test_sparse_depth_that_is_lost_is_told_but_small_dense_depth_is_not() -> None:
    draw = np.random.default_rng(0)
    sparse = np.where(draw.random((64, 64)) < 0.3, np.float32(5), np.float32("nan"))
    (sentence,) = modality().advise([sparse], "target")
    assert "target.coverage=0" in sentence
    assert "16x16" in sentence
    assert modality(coverage=0.0).advise([sparse], "target") == []
    small = np.full((64, 64), np.nan, np.float32)
    small[:8, :8] = 5
    assert modality().advise([small], "target") == []
