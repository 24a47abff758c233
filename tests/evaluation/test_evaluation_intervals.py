"""Standard errors by leaving groups out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from bridgeflow.evaluation.intervals import score, score_of_each


def mean_of(values: Sequence[float]) -> object:
    def metrics(rows: Sequence[int]) -> Mapping[str, float]:
        return {"mean": float(np.mean([values[i] for i in rows]))}

    return metrics


def test_of_a_mean_it_is_the_usual_standard_error() -> None:
    values = np.random.default_rng(0).normal(5, 2, 40).tolist()
    own = score(mean_of(values), 40, groups=40)  # type: ignore[arg-type]
    usual = float(np.std(values, ddof=1) / math.sqrt(40))
    assert own.error("mean") == pytest.approx(usual, rel=1e-9)
    low, high = own.interval("mean")
    # Student's t of 39 degrees of freedom.
    assert high - low == pytest.approx(2 * 2.0227 * usual, rel=1e-4)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draws = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        low, high = score(mean_of(draws.normal(0, 1, 200).tolist()), 200).interval("mean")  # type: ignore[arg-type]
        held += low <= 0 <= high
    assert 0.90 <= held / 400 <= 0.98


def test_few_examples_make_intervals_wider() -> None:
    """With 1.96 standard errors to each side four draws hold the truth 0.85 of the time."""
    draws = np.random.default_rng(5)
    held = 0
    for _ in range(2000):
        low, high = score(mean_of(draws.normal(0, 1, 4).tolist()), 4).interval("mean")  # type: ignore[arg-type]
        held += low <= 0 <= high
    assert 0.93 <= held / 2000 <= 0.97


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.1936), (1.0, 0.8064, 1.0)])
def test_where_all_are_right_or_none_the_next_may_differ(value: float, low: float, high: float) -> None:
    """Wilson's interval of a share of 16: z^2 / (16 + z^2) from the end."""
    own = score(mean_of([value] * 16), 16)  # type: ignore[arg-type]
    assert own.interval("mean") == pytest.approx((low, high), abs=1e-4)
    assert score_of_each([{"mean": value}] * 16).interval("mean") == pytest.approx((low, high), abs=1e-4)
    same = score(mean_of([0.5] * 16), 16)  # type: ignore[arg-type]
    assert same.interval("mean") == (0.5, 0.5)


def test_what_both_find_hard_falls_out_of_a_difference() -> None:
    draws = np.random.default_rng(2)
    hard = draws.normal(0, 10, 200)
    noise = draws.normal(0.5, 0.1, 200)
    a = score(mean_of(hard.tolist()), 200)  # type: ignore[arg-type]
    b = score(mean_of((hard + noise).tolist()), 200)  # type: ignore[arg-type]
    assert a.error("mean") > 0.3
    assert b.error_beside(a, "mean") < 0.02
    difference, half = b.difference(a, "mean")
    assert difference == pytest.approx(0.5, abs=0.05)
    # Student's t of 19 degrees of freedom.
    assert half == pytest.approx(2.0930 * b.error_beside(a, "mean"), rel=1e-4)


def test_it_holds_for_what_is_no_mean() -> None:
    """The standard error of a correlation of normal draws is about (1 - r^2) / sqrt(n)."""
    draws = np.random.default_rng(3)
    x = draws.normal(size=1000)
    y = 0.6 * x + 0.8 * draws.normal(size=1000)
    own = score(lambda rows: {"r": float(np.corrcoef(x[list(rows)], y[list(rows)])[0, 1])}, 1000, groups=50)
    assert own.error("r") == pytest.approx((1 - 0.36) / math.sqrt(1000), rel=0.3)


def test_one_example_says_nothing_of_itself() -> None:
    own = score(mean_of([3.0]), 1)  # type: ignore[arg-type]
    assert own.figures == {"mean": 3.0}
    assert math.isnan(own.error("mean"))
