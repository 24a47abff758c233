"""Whether stated spreads go with the errors, on spreads of which that is known."""

from __future__ import annotations

import numpy as np
import pytest

from bridgeflow.evaluation.calibration import MOST_PLACES, PARTS, calibration

RNG = np.random.default_rng(0)
ERRORS = RNG.exponential(size=(8, 4000))


def test_the_errors_themselves_rank_as_well_as_can_be() -> None:
    found = calibration([(error, error) for error in ERRORS])
    assert found.ause == pytest.approx(0.0, abs=1e-12)
    assert found.spread == pytest.approx(found.error)
    assert len(found.error) == PARTS
    assert found.rises


def test_a_spread_that_says_nothing_has_the_area_of_no_order() -> None:
    found = calibration([(error, RNG.random(error.shape)) for error in ERRORS])
    assert found.ause == pytest.approx(found.by_chance, rel=0.05)
    assert not found.rises


def test_a_spread_against_the_errors_is_worse_than_none() -> None:
    found = calibration([(error, -error) for error in ERRORS])
    assert found.ause > 1.3 * found.by_chance
    assert found.error == tuple(sorted(found.error, reverse=True))


def test_only_the_order_counts_within_a_result() -> None:
    one = calibration([(error, error + 0.5 * RNG.random(error.shape)) for error in ERRORS[:1]])
    scaled = calibration([(3 * error, spread) for error, spread in [(ERRORS[0], ERRORS[0] ** 3)]])
    assert scaled.ause == pytest.approx(0.0, abs=1e-12)
    assert 0 < one.ause < one.by_chance


def test_the_area_is_that_of_the_exponential_distribution() -> None:
    # Of an exponential error, taking out the largest share f leaves a mean of 1 + f ln f / (1 - f).
    shares = np.linspace(1e-9, 0.95, 20001)
    left = 1 + shares * np.log(shares) / (1 - shares)
    area = float(np.sum((1 - left)[1:] + (1 - left)[:-1]) / 2 * (shares[1] - shares[0]))
    error = np.random.default_rng(1).exponential(size=MOST_PLACES)
    # The curve is steep at its beginning, where twenty shares are coarse.
    assert calibration([(error, error)]).by_chance == pytest.approx(area, rel=0.02)


def test_results_without_an_error_or_a_place_do_not_count() -> None:
    nothing, exact = np.zeros(0), np.zeros(100)
    found = calibration([(nothing, nothing), (exact, np.ones(100)), (ERRORS[0], ERRORS[0])])
    assert found.ause == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(found.each[:2]).all()
    empty = calibration([(nothing, nothing)])
    assert empty.json()["ause"] is None
    assert not empty.rises


def test_large_results_are_thinned_evenly() -> None:
    error = np.arange(5 * MOST_PLACES, dtype=np.float64)
    found = calibration([(error, error)])
    assert found.error[0] == pytest.approx(error.mean() / PARTS, rel=0.01)


def test_errors_and_spreads_are_of_the_same_places() -> None:
    with pytest.raises(ValueError, match="same places"):
        calibration([(np.zeros(3), np.zeros(4))])
    with pytest.raises(ValueError, match="finite"):
        calibration([(np.zeros(3), np.array([0, 1, np.nan]))])
