"""Whether results are wrong where they are stated to be uncertain.

Places are taken out of a result in the order of the stated spread, the most uncertain first, and the mean error of
those left is held against what taking them out in the order of their errors would leave (sparsification; Ilg et al.,
arXiv 1802.07095). The area between the curves is 0 for a spread that ranks as the errors do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

PARTS = 10
"""Equal parts of all places, by stated spread."""
TAKEN_OUT = np.linspace(0.0, 0.95, 20)
"""Shares of the places that are taken out."""
MOST_PLACES = 2**14
"""Places of one result that are looked at; of larger ones a share, evenly."""


@dataclass(frozen=True)
class Calibration:
    """spread, error: means of the tenths of all places, by stated spread, in the item's units. each: the area between
    the curves for each result, whose mean is `ause`; by_chance: the mean area of a spread that says nothing."""

    spread: tuple[float, ...]
    error: tuple[float, ...]
    each: tuple[float, ...]
    by_chance: float

    @property
    def ause(self) -> float:
        """Area under the sparsification error, in units of a result's mean error; NaN where no place counts."""
        return float(np.nanmean(self.each)) if np.isfinite(self.each).any() else float("nan")

    @property
    def rises(self) -> bool:
        """Whether the error rises with the spread from each tenth to the next."""
        known = len(self.error) == PARTS
        return known and all(low < high for low, high in zip(self.error, self.error[1:], strict=False))

    def json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        ause = self.ause
        return {
            "spread": [round(value, 6) for value in self.spread],
            "error": [round(value, 6) for value in self.error],
            "rises": self.rises,
            "ause": ause if np.isfinite(ause) else None,
            "ause_by_chance": self.by_chance if np.isfinite(self.by_chance) else None,
        }


def calibration(pairs: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> Calibration:
    """How errors go with stated spreads. pairs: (errors (n,), spreads (n,)) of each result, at the places that
    count."""
    thinned = [_thinned(np.asarray(own, np.float64), np.asarray(stated, np.float64)) for own, stated in pairs]
    areas = [_areas(error, spread) for error, spread in thinned]
    counted = [area for area in areas if np.isfinite(area[0])]
    errors = np.concatenate([error for error, _ in thinned]) if thinned else np.zeros(0)
    spreads = np.concatenate([spread for _, spread in thinned]) if thinned else np.zeros(0)
    order = np.argsort(spreads, kind="stable")
    parts = [part for part in np.array_split(order, PARTS) if len(part)]
    return Calibration(
        tuple(float(spreads[part].mean()) for part in parts),
        tuple(float(errors[part].mean()) for part in parts),
        tuple(area[0] for area in areas),
        float(np.mean([area[1] for area in counted])) if counted else float("nan"),
    )


def _thinned(error: NDArray[Any], spread: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if error.shape != spread.shape or error.ndim != 1:
        raise ValueError(f"errors {error.shape} and spreads {spread.shape} are not of the same places")
    if not (np.isfinite(error).all() and np.isfinite(spread).all()):
        raise ValueError("errors and spreads have to be finite: leave out the places where they are not")
    step = max(1, -(-len(error) // MOST_PLACES))
    return error[::step], spread[::step]


def _areas(error: NDArray[Any], spread: NDArray[Any]) -> tuple[float, float]:
    """The area between the curves of the spread and of the errors themselves, and that of no order at all; NaN without
    an error."""
    mean = error.mean() if len(error) else 0.0
    if not mean > 0:
        return float("nan"), float("nan")
    stated, best = (_left(error[np.argsort(order, kind="stable")]) / mean for order in (spread, error))
    return float(trapezoid(stated - best, TAKEN_OUT)), float(trapezoid(1 - best, TAKEN_OUT))


def _left(error: NDArray[Any]) -> NDArray[Any]:
    """The mean of the errors that are left, in their order, when each share of them is taken from the end."""
    counts = np.maximum(1, np.round((1 - TAKEN_OUT) * len(error)).astype(int))
    return np.asarray(np.cumsum(error)[counts - 1] / counts)
