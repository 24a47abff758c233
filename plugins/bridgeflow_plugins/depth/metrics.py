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

from typing import Any

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

    prediction, truth: (H, W) in metres; a pixel counts where both are finite and the truth is above 0.
    mask: bool (H, W), True where a pixel may count; all by default.

    Without a pixel that counts every figure is NaN. Raises BridgeflowError where shapes differ.
    """
    p, t, counted = _prepare(prediction, truth, mask)
    if not counted.any():
        return dict.fromkeys(METRICS, float("nan"))
    p, t = np.maximum(p[counted], SMALLEST), t[counted]
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
    pixels that count in `depth_metrics`; without any, the prediction is returned as it is. The result may be
    negative. Raises BridgeflowError where shapes differ.
    """
    p, t, counted = _prepare(prediction, truth, mask)
    if not counted.any():
        return p
    p_mean, t_mean = p[counted].mean(), t[counted].mean()
    deviation = p[counted] - p_mean
    spread = float(np.sum(deviation**2))
    # A constant prediction has no scale to fit: the shift alone brings it to the mean of the truth.
    scale = float(np.sum(deviation * (t[counted] - t_mean))) / spread if spread > 0 else 0.0
    return scale * (p - p_mean) + t_mean


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
    counted = np.isfinite(p) & np.isfinite(t) & (t > 0)
    if mask is not None:
        counted &= np.asarray(mask, dtype=bool)
    return p, t, counted
