"""Bringing a depth map to the model's size, in step with its picture."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bridgeflow.errors import BridgeflowError

ASPECT_TOLERANCE = 0.02
"""Largest difference of aspect ratios, relative, at which a picture and its depth count as aligned."""
SAME_SURFACE = 1.05
"""Two depths within this ratio are taken to lie on one surface."""
MAX_SAMPLES = 16
"""Most samples per axis under an output pixel."""


def fit_depth(
    depth: NDArray[np.floating[Any]],
    size: tuple[int, int],
    resize: Literal["crop", "stretch"],
    coverage: float = 0.5,
) -> NDArray[np.float32]:
    """The map (H, W) at the size (height, width), NaN where invalid.

    The geometry is that of a picture's `fit_image`: `stretch` fits both sides, `crop` fits the shorter side
    and cuts out the centre. An output pixel is the median of the measurements it covers; it is valid where at
    least the share `coverage` of what it covers is measured, and never without any measurement.
    """
    depth = np.asarray(depth, dtype=np.float32)
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))
    return depth if depth.shape == size else _median(_samples(depth, size, resize), coverage)


def valid_share(
    depth: NDArray[np.floating[Any]],
    size: tuple[int, int],
    resize: Literal["crop", "stretch"],
    coverage: float = 0.5,
) -> float:
    """Share of the pixels (0 to 1) that are valid once `fit_depth` has brought the map to the size."""
    measured = np.isfinite(depth) & (depth > 0)
    if measured.shape == size or not measured.any() or measured.all():
        return float(measured.mean())
    samples = _samples(measured, size, resize)
    return float(_is_enough(np.count_nonzero(samples, axis=-1), samples.shape[-1], coverage).mean())


def check_aligned(image_shape: tuple[int, ...], depth_shape: tuple[int, ...], name: str) -> None:
    """Raises BridgeflowError where the aspect ratios of a picture and its depth differ by more than 2%.

    Shapes begin with (height, width). `name` says in the message which pair it is.
    """
    image_height, image_width = image_shape[:2]
    depth_height, depth_width = depth_shape[:2]
    ratio = (image_width * depth_height) / (image_height * depth_width)
    if max(ratio, 1 / ratio) - 1 > ASPECT_TOLERANCE:
        raise BridgeflowError(
            f"{name}: the picture is {image_width}x{image_height} but its depth {depth_width}x{depth_height}"
            ": give both the same field of view, so that width / height agrees to 2%."
        )


def _box(
    shape: tuple[int, ...], size: tuple[int, int], resize: Literal["crop", "stretch"]
) -> tuple[float, float, float, float]:
    """(top, left, height, width) of the part of the map that is kept, in its own pixels."""
    height, width = float(shape[0]), float(shape[1])
    if resize == "stretch":
        return 0.0, 0.0, height, width
    scale = max(size[0] / height, size[1] / width)
    box_height, box_width = size[0] / scale, size[1] / scale
    if scale == 1:
        # Whole pixels are cut without interpolation, in the picture too.
        return float((shape[0] - size[0]) // 2), float((shape[1] - size[1]) // 2), box_height, box_width
    return (height - box_height) / 2, (width - box_width) / 2, box_height, box_width


def _samples(values: NDArray[Any], size: tuple[int, int], resize: Literal["crop", "stretch"]) -> NDArray[Any]:
    """The values under each pixel of the size, (*size, number of samples)."""
    top, left, box_height, box_width = _box(values.shape, size, resize)
    rows, row_samples = _sample_index(top, box_height, size[0], values.shape[0])
    columns, column_samples = _sample_index(left, box_width, size[1], values.shape[1])
    samples = values[rows[:, None], columns[None, :]]
    samples = samples.reshape(size[0], row_samples, size[1], column_samples).transpose(0, 2, 1, 3)
    return samples.reshape(*size, row_samples * column_samples)


def _sample_index(start: float, extent: float, count: int, limit: int) -> tuple[NDArray[np.intp], int]:
    """Indices of evenly spaced samples along one axis, and how many there are for each of `count` pixels.

    There are as many as it takes to meet every measurement: sparse depth must not fall between samples.
    """
    samples = min(max(math.ceil(extent / count - 1e-9), 1), MAX_SAMPLES)
    first = start + extent / (2 * count * samples)
    if samples < MAX_SAMPLES and math.isclose(first, round(first), abs_tol=1e-6):
        # Samples on the borders between pixels would all fall to the same side, half a pixel out of step.
        samples *= 2
    positions = start + (np.arange(count * samples) + 0.5) * (extent / (count * samples))
    return np.clip(np.floor(positions + 1e-9).astype(np.intp), 0, limit - 1), samples


def _median(samples: NDArray[np.float32], coverage: float) -> NDArray[np.float32]:
    """Median over the last axis of what is not NaN; NaN where too little is measured.

    A mean over an object's edge would put points in the empty air between near and far, and one sample alone
    is noisy and may miss thin things. The median is a depth that was measured. At an even split the two
    middle samples are averaged if they lie on one surface; if not, the nearer wins, as it hides the other.
    """
    samples = np.sort(samples, axis=-1)
    measured = np.count_nonzero(~np.isnan(samples), axis=-1)
    low = np.take_along_axis(samples, np.maximum((measured - 1) // 2, 0)[..., None], axis=-1)[..., 0]
    high = np.take_along_axis(samples, np.minimum(measured // 2, samples.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    middle = np.where(high <= SAME_SURFACE * low, (low + high) / 2, low)
    enough = _is_enough(measured, samples.shape[-1], coverage)
    return np.where(enough, middle, np.float32(np.nan)).astype(np.float32)


def _is_enough(measured: NDArray[np.intp], samples: int, coverage: float) -> NDArray[np.bool_]:
    """Whether enough of a pixel's samples are measured."""
    return measured >= max(1.0, coverage * samples)


def resize_depth(depth: NDArray[np.floating[Any]], size: tuple[int, int], coverage: float = 0.5) -> NDArray[np.float32]:
    """The whole map at another size (height, width), for a model's smooth maps.

    It is reduced as in `fit_depth`, by the share `coverage`, and enlarged by bilinear interpolation, which mixes near
    and far at an edge; a pixel next to an invalid one is then invalid.
    """
    depth = np.asarray(depth, dtype=np.float32)
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))
    if depth.shape == size:
        return depth
    if size[0] < depth.shape[0] or size[1] < depth.shape[1]:
        return fit_depth(depth, size, "stretch", coverage)
    enlarged = Image.fromarray(depth, mode="F").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(enlarged, dtype=np.float32)


def resize_map(values: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map of numbers that are no distances, of which 0 is one like any other, at another size (height, width)."""
    values = np.asarray(values, dtype=np.float32)
    if values.shape == size:
        return values
    resized = Image.fromarray(values, mode="F").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(resized, dtype=np.float32)
