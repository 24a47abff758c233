"""How sure a figure is: what it would be without each part of the examples.

The delete-a-group jackknife (Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3) asks nothing of a metric but
that it can be computed on some of the examples, so that it holds for a mean as for CIDEr or a Frechet distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

GROUPS = 20
"""Parts that the examples are cut into, where there are as many."""
NORMAL_95 = 1.96
"""Standard deviations to each side that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Scores:
    """Figures of `count` results, metric -> value, and `without`: metric -> its value without each group in turn."""

    figures: Mapping[str, float]
    without: Mapping[str, tuple[float, ...]]
    count: int = 0

    def error(self, name: str) -> float:
        """Standard error of a figure; NaN where there are too few examples."""
        return _error(self.without.get(name, ()))

    def interval(self, name: str) -> tuple[float, float]:
        """95 % confidence interval of a figure: Student's t times its standard error to each side.

        Where no example differs from another, as where all are right or none is, it is the score interval of a share
        (Wilson, 1927), since an error of 0 would say that every further example is the same.
        """
        value, error = self.figures[name], self.error(name)
        if error == 0 and value in (0.0, 1.0) and self.count:
            reach = NORMAL_95**2 / (self.count + NORMAL_95**2)
            return (0.0, reach) if value == 0 else (1 - reach, 1.0)
        half = student_95(len(self.without.get(name, ())) - 1) * error
        return value - half, value + half

    def error_beside(self, other: Scores, name: str) -> float:
        """Standard error of the difference to the figure of other results for the same examples: what both find hard
        falls out of it."""
        mine, theirs = self.without.get(name, ()), other.without.get(name, ())
        if len(mine) != len(theirs):
            raise ValueError("figures of other examples cannot be compared example by example")
        return _error([a - b for a, b in zip(mine, theirs, strict=True)])

    def difference(self, other: Scores, name: str) -> tuple[float, float]:
        """(difference to the figure of other results for the same examples, half its 95 % confidence interval)."""
        half = student_95(len(self.without.get(name, ())) - 1) * self.error_beside(other, name)
        return self.figures[name] - other.figures[name], half


def student_95(freedom: int) -> float:
    """Standard errors to each side of a 95 % confidence interval, with `freedom` degrees of freedom; NaN for none."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom)) if freedom > 0 else math.nan


def score(metrics: Callable[[Sequence[int]], Mapping[str, float]], count: int, groups: int = GROUPS) -> Scores:
    """The figures of `count` examples. `metrics` gives those of the examples of some numbers, 0 to count - 1."""
    figures = metrics(range(count))
    parts = min(groups, count)
    if parts < 2:
        return Scores(figures, {}, count)
    left = [metrics([index for index in range(count) if index % parts != part]) for part in range(parts)]
    return Scores(figures, {name: tuple(own.get(name, math.nan) for own in left) for name in figures}, count)


def _error(without: Sequence[float]) -> float:
    values = [value for value in without if math.isfinite(value)]
    if len(values) < 2:
        return math.nan
    mean = math.fsum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * math.fsum((value - mean) ** 2 for value in values))


def score_of_each(each: Sequence[Mapping[str, float]], groups: int = GROUPS) -> Scores:
    """The figures of examples whose own figures are given, where a figure is their mean. An example without it, or with
    NaN, does not count."""
    names = list(dict.fromkeys(name for own in each for name in own))
    figures = {name: _mean([own.get(name, math.nan) for own in each]) for name in names}
    parts = min(groups, len(each))
    if parts < 2:
        return Scores(figures, {}, len(each))
    without = {
        name: tuple(
            _mean([own.get(name, math.nan) for index, own in enumerate(each) if index % parts != part])
            for part in range(parts)
        )
        for name in names
    }
    return Scores(figures, without, len(each))


def _mean(values: Sequence[float]) -> float:
    counted = [value for value in values if not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan
