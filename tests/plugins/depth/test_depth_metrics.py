"""Depth metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.depth.metrics import METRICS, align, align_disparity, crop_mask, depth_metrics

NAN = float("nan")


def test_metrics_by_hand() -> None:
    truth = np.array([[1.0, 2.0], [4.0, 10.0]])
    prediction = np.array([[1.0, 3.0], [2.0, 10.4]])
    figures = depth_metrics(prediction, truth)
    logs = [0.0, math.log(1.5), math.log(0.5), math.log(1.04)]
    mean, square = sum(logs) / 4, sum(e * e for e in logs) / 4
    expected = {
        "abs_rel": (0 + 0.5 + 0.5 + 0.04) / 4,
        "sq_rel": (0 + 1 / 2 + 4 / 4 + 0.16 / 10) / 4,
        "rmse": math.sqrt((0 + 1 + 4 + 0.16) / 4),
        "rmse_log": math.sqrt(square),
        "log10": (math.log10(1.5) + math.log10(2) + math.log10(1.04)) / 4,
        "silog": 100 * math.sqrt(square - mean * mean),
        "delta1": 2 / 4,
        "delta2": 3 / 4,  # 1.5 < 1.5625, but 2 is not
        "delta3": 3 / 4,  # 2 > 1.953125
        "delta_1.05": 2 / 4,
    }
    assert tuple(figures) == METRICS
    assert figures == pytest.approx(expected)


def test_thresholds_are_strict_and_symmetric() -> None:
    figures = depth_metrics(np.array([[1.25, 1.0, 1.0, 1.04]]), np.array([[1.0, 1.25, 1.06, 1.0]]))
    assert figures["delta1"] == 2 / 4
    assert figures["delta2"] == 1.0
    assert figures["delta_1.05"] == 1 / 4


def test_silog_and_only_silog_forgives_a_scale() -> None:
    truth = np.random.default_rng(0).uniform(1, 12, (8, 8))
    figures = depth_metrics(1.1 * truth, truth)
    assert figures["silog"] == pytest.approx(0, abs=1e-5)
    assert figures["abs_rel"] == pytest.approx(0.1)
    assert figures["rmse_log"] == pytest.approx(math.log(1.1))


def test_only_valid_pixels_count() -> None:
    truth = np.array([[2.0, NAN, 0.0, -1.0, math.inf, 2.0]])
    prediction = np.array([[3.0, 9.0, 9.0, 9.0, 9.0, 9.0]])
    mask = np.array([[True, True, True, True, True, False]])
    assert depth_metrics(prediction, truth, mask)["abs_rel"] == pytest.approx(0.5)
    assert depth_metrics(prediction, truth)["abs_rel"] == pytest.approx((0.5 + 3.5) / 2)


def test_leaving_pixels_out_gains_nothing() -> None:
    truth, right = np.full((1, 4), 2.0), np.array([[2.0, 2.0, 2.0, 2.0]])
    for missing in (NAN, math.inf, -math.inf):
        prediction = np.where([[True, False, False, False]], right, missing)
        figures = depth_metrics(prediction, truth)
        assert figures["delta1"] == 1 / 4
        assert figures["abs_rel"] == pytest.approx(3 / 4, abs=1e-3)
        assert align(prediction, truth)[0, 0] == pytest.approx(2.0)


def test_disparity_is_fitted_where_it_is_what_was_predicted() -> None:
    truth = np.random.default_rng(1).uniform(1, 12, (8, 9))
    prediction = 1 / (0.3 / truth + 0.05)
    assert depth_metrics(align_disparity(prediction, truth), truth)["abs_rel"] < 1e-9
    assert depth_metrics(align(prediction, truth), truth)["abs_rel"] > 0.01
    # A disparity at or below 0 lies infinitely far.
    far = align_disparity(np.array([[1.0, 2.0, 1000.0]]), np.array([[1.0, 4.0, 5.0]]))
    assert (far > 0).all()


def test_crops_are_those_of_the_benchmarks() -> None:
    nyu = crop_mask("nyu", (480, 640))
    assert nyu.sum() == (471 - 45) * (601 - 41)
    assert nyu[45, 41]
    assert nyu[470, 600]
    assert not nyu[44, 41]
    assert not nyu[470, 601]
    rows, columns = np.nonzero(crop_mask("garg", (375, 1242)))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (153, 370, 44, 1196)
    rows, columns = np.nonzero(crop_mask("eigen", (375, 1242)))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (124, 341, 44, 1196)
    assert crop_mask("none", (3, 4)).all()


def test_without_a_valid_pixel_every_figure_is_nan() -> None:
    figures = depth_metrics(np.ones((2, 2)), np.full((2, 2), NAN))
    assert tuple(figures) == METRICS
    assert all(math.isnan(figure) for figure in figures.values())


def test_a_prediction_that_is_not_positive_stays_finite() -> None:
    figures = depth_metrics(np.array([[-1.0, 2.0]]), np.array([[1.0, 2.0]]))
    assert all(math.isfinite(figure) for figure in figures.values())
    assert figures["log10"] == pytest.approx(3 / 2)  # counted as 1 mm


def test_float32_maps_are_scored_in_float64() -> None:
    truth = np.full((1000, 1000), 3.0, dtype=np.float32)
    assert depth_metrics(truth * np.float32(1.5), truth)["abs_rel"] == pytest.approx(0.5, rel=1e-12)


def test_align_recovers_scale_and_shift_over_the_mask() -> None:
    truth = np.random.default_rng(0).uniform(1, 12, (6, 7))
    prediction = (truth - 3) / 7
    mask = np.ones_like(truth, dtype=bool)
    prediction[0, 0], mask[0, 0] = 100.0, False
    aligned = align(prediction, truth, mask)
    np.testing.assert_allclose(aligned[mask], truth[mask])
    assert aligned[0, 0] == pytest.approx(703.0)


def test_align_is_the_least_squares_solution() -> None:
    prediction, truth = np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 6.0]])
    # scale 5/2 and shift 1/2 by the normal equations
    np.testing.assert_allclose(align(prediction, truth), [[0.5, 3.0, 5.5]])


def test_align_of_a_constant_of_holes_and_of_nothing() -> None:
    np.testing.assert_allclose(align(np.full((1, 3), 0.5), np.array([[1.0, 2.0, 6.0]])), [[3.0, 3.0, 3.0]])
    aligned = align(np.array([[0.0, 1.0, NAN]]), np.array([[2.0, 4.0, 9.0]]))
    np.testing.assert_allclose(aligned, [[2.0, 4.0, NAN]])
    np.testing.assert_allclose(align(np.array([[0.25]]), np.array([[NAN]])), [[0.25]])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(BridgeflowError, match=r"shapes \(2, 2\), \(2, 3\) cannot be compared"):
        depth_metrics(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(BridgeflowError, match=r"\(1, 2\)"):
        align(np.ones((2, 2)), np.ones((2, 2)), np.ones((1, 2), dtype=bool))
