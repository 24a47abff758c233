"""What a person should know of depth maps before training on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bridgeflow_plugins.depth.geometry import valid_share

if TYPE_CHECKING:
    from bridgeflow_plugins.depth import DepthOptions

SAMPLED = 4096
"""Measurements of a map that are looked at, evenly chosen."""
OUTSIDE = 0.25
"""Share of the measurements outside the range from which on it is worth a word."""
LOST = 0.25
"""A smaller share of the measured part of maps, left at the model's size, is worth a word."""


def advise(items: Iterable[NDArray[np.float32]], options: DepthOptions, side: str) -> list[str]:
    """A sentence where much of the depth lies outside the normalisation's range, and one where most of what is measured
    counts no more at the model's size. side: the section of a recipe that holds the options."""
    samples: list[NDArray[np.float32]] = []
    measured, valid = [], []
    for item in items:
        values = item[np.isfinite(item)]
        if values.size:
            samples.append(values[:: max(1, values.size // SAMPLED)])
            measured.append(values.size / item.size)
            valid.append(valid_share(item, options.height_and_width, options.resize, options.coverage))
    if not samples:
        return []
    sentences = [_on_range(np.concatenate(samples), options, side)]
    if np.mean(valid) < LOST * np.mean(measured) and options.coverage > 0:
        height, width = options.height_and_width
        sentences.append(
            f"{np.mean(measured):.1%} of the depth is measured, but only {np.mean(valid):.1%} of the model's "
            f"{width}x{height} pixels count, since one has to be measured over a share of {options.coverage:g}: set "
            f"{side}.coverage=0, as for lidar."
        )
    return [sentence for sentence in sentences if sentence]


def _on_range(values: NDArray[np.float32], options: DepthOptions, side: str) -> str:
    normalisation = options.normalisation
    near, far = getattr(normalisation, "near", None), getattr(normalisation, "far", None)
    if near is None or far is None:
        return ""
    outside = float(np.mean((values < near) | (values > far)))
    if outside < OUTSIDE:
        return ""
    low, high = np.percentile(values.astype(np.float64), [2, 98])
    return (
        f"{outside:.0%} of the measured depth lies outside {near:g} to {far:g} m, the range that {side}.normalisation "
        f"tells apart, and is clipped to its ends, for the maps go from {_rounded(low)} to {_rounded(high)} m (2nd to "
        f"98th percentile): if that is the wrong unit, store metres, or set {side}.png_scale, the metres per step of "
        f"whole numbers; else set {side}.normalisation.near and .far, or {side}.normalisation.name=affine for relative "
        "depth."
    )


def _rounded(metres: float) -> str:
    return f"{metres:,.0f}" if metres >= 100 else f"{metres:.3g}"
