"""Metrics of depth estimation, in float64 over valid pixels.

With prediction p, truth t and e = ln p - ln t over the valid pixels (Eigen et al., arXiv 1406.2283; Uhrig et
al., arXiv 1708.06500):

abs_rel     mean |p - t| / t
sq_rel      mean (p - t)^2 / t, metres
rmse        sqrt(mean (p - t)^2), metres
rmse_log    sqrt(mean e^2)
log10       mean |log10 p - log10 t|
silog       100 sqrt(mean e^2 - (mean e)^2), as KITTI counts it
delta1..3   share of pixels with max(p/t, t/p) < 1.25, 1.25^2, 1.25^3
delta_1.05  the same with 1.05
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bridgeflow.errors import BridgeflowError

METRICS = (
    "abs_rel",
    "sq_rel",
    "rmse",
    "rmse_log",
    "log10",
    "silog",
    "delta1",
    "delta2",
    "delta3",
    "delta_1.05",
)
SMALLEST = 1e-3
"""Metres that a prediction counts as where it is smaller, as after an alignment with a shift."""


def depth_metrics(
    prediction: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """The metrics above for one map.

    prediction, truth: (H, W) in metres; a pixel counts where the truth is finite and above 0. A prediction that is no
    finite number counts as SMALLEST: nothing is gained by leaving a pixel out.
    mask: bool (H, W), True where a pixel may count; all by default.

    Without a pixel that counts every figure is NaN. Raises BridgeflowError where shapes differ.
    """
    p, t, counted = _prepare(prediction, truth, mask)
    if not counted.any():
        return dict.fromkeys(METRICS, float("nan"))
    p, t = np.maximum(np.where(np.isfinite(p), p, SMALLEST)[counted], SMALLEST), t[counted]
    error = np.log(p) - np.log(t)
    ratio = np.maximum(p / t, t / p)
    return {
        "abs_rel": float(np.mean(np.abs(p - t) / t)),
        "sq_rel": float(np.mean((p - t) ** 2 / t)),
        "rmse": float(np.sqrt(np.mean((p - t) ** 2))),
        "rmse_log": float(np.sqrt(np.mean(error**2))),
        "log10": float(np.mean(np.abs(error)) / np.log(10.0)),
        "silog": float(100.0 * np.std(error)),
        "delta1": float(np.mean(ratio < 1.25)),
        "delta2": float(np.mean(ratio < 1.25**2)),
        "delta3": float(np.mean(ratio < 1.25**3)),
        "delta_1.05": float(np.mean(ratio < 1.05)),
    }


def align(prediction: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """scale * prediction + shift, (H, W), with the scale and shift nearest to the truth in least squares.

    For relative depth, before it is scored (as in Marigold, arXiv 2312.02145, section 4.1). Fitted over the
    pixels that count in `depth_metrics` and have a finite prediction; without any, the prediction is returned as it
    is. The result may be negative. Raises BridgeflowError where shapes differ.
    """
    p, t, counted = _prepare(prediction, truth, mask)
    counted &= np.isfinite(p)
    if not counted.any():
        return p
    p_mean, t_mean = p[counted].mean(), t[counted].mean()
    deviation = p[counted] - p_mean
    spread = float(np.sum(deviation**2))
    # A constant prediction has no scale to fit: the shift alone brings it to the mean of the truth.
    scale = float(np.sum(deviation * (t[counted] - t_mean))) / spread if spread > 0 else 0.0
    with np.errstate(invalid="ignore"):
        return scale * (p - p_mean) + t_mean


def align_disparity(
    prediction: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """1 / (scale / prediction + shift), (H, W), with the scale and shift by which the disparity, 1 / depth, is nearest
    to the truth's in least squares.

    For models of relative disparity (as in MiDaS, arXiv 1907.01341, section 5). Pixels as in `align`; disparities at or
    below 0 become infinitely far, so bound the result by the farthest depth that counts.
    """
    p, t, _ = _prepare(prediction, truth, mask)
    with np.errstate(divide="ignore", invalid="ignore"):
        fitted = align(1.0 / p, np.where(t > 0, 1.0 / t, np.nan), mask)
        return np.where(fitted > 0, 1.0 / fitted, np.inf)


Crop = Literal["none", "garg", "eigen", "nyu"]


def crop_mask(crop: Crop, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (H, W), True inside the part of a map that a benchmark counts.

    `garg` and `eigen` are shares of a KITTI map's height and width (Garg et al., arXiv 1603.04992; Eigen et al., arXiv
    1406.2283), `nyu` rows 45 to 470 and columns 41 to 600 of NYU's 480x640, or as much of another size.
    """
    height, width = shape
    edges = {
        "none": (0.0, 1.0, 0.0, 1.0),
        "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
        "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
        "nyu": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    }[crop]
    top, bottom, left, right = (
        int(edge * side) for edge, side in zip(edges, (height, height, width, width), strict=True)
    )
    inside = np.zeros(shape, dtype=bool)
    inside[top:bottom, left:right] = True
    return inside


def _prepare(
    prediction: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    p = np.asarray(prediction, dtype=np.float64)
    t = np.asarray(truth, dtype=np.float64)
    shapes = [p.shape, t.shape] + ([np.shape(mask)] if mask is not None else [])
    if len(set(shapes)) > 1:
        raise BridgeflowError(
            f"depth of the shapes {', '.join(map(str, shapes))} cannot be compared: bring them to one size."
        )
    counted = np.isfinite(t) & (t > 0)
    if mask is not None:
        counted &= np.asarray(mask, dtype=bool)
    return p, t, counted
