"""Overlapping tiles of a picture, and the seamless picture that their results make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bridgeflow.errors import UsageError
from bridgeflow_plugins.image_latent.pixels import Pixels


@dataclass(frozen=True)
class Place:
    """Where a tile lies in its picture, in the picture's pixels."""

    top: int
    left: int


@dataclass(frozen=True)
class Tile:
    """A piece of a picture, of exactly the tile's size."""

    image: Pixels
    place: Place


def places(shape: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Place]:
    """Places of the tiles (height, width) that cover a picture (height, width), row by row.

    Neighbours overlap by at least `overlap` pixels and lie evenly; a side shorter than a tile takes one tile.
    """
    if not 0 <= overlap <= min(tile) // 2:
        raise UsageError(
            f"an overlap of {overlap} pixels does not suit tiles of {tile[0]}x{tile[1]}: "
            f"choose one from 0 to {min(tile) // 2}."
        )
    tops, lefts = (_starts(length, size, overlap) for length, size in zip(shape, tile, strict=True))
    return [Place(top, left) for top in tops for left in lefts]


def tiles(item: Pixels, tile: int | tuple[int, int], overlap: int) -> list[Tile]:
    """Tiles (height, width) of a picture (H, W, 3); see `places`.

    A picture smaller than a tile is continued by reflection below and to the right; `blend` cuts that off.
    """
    size = (tile, tile) if isinstance(tile, int) else tile
    found = places((item.shape[0], item.shape[1]), size, overlap)
    missing = [max(side - length, 0) for side, length in zip(size, item.shape, strict=False)]
    padded = np.pad(item, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect") if any(missing) else item
    return [Tile(padded[p.top : p.top + size[0], p.left : p.left + size[1]], p) for p in found]


def blend(results: Sequence[Pixels], places: Sequence[Place], shape: tuple[int, int], factor: int = 1) -> Pixels:
    """The picture (H * factor, W * factor, 3) from the results of its tiles.

    `places` and `shape` (H, W) are those of the picture that was cut; a result is `factor` times as large as
    its tile. Where tiles overlap, their weights fall off towards their edges as a squared sine over the width
    of the overlap; they are normalised, so that results that agree are reproduced.
    """
    height, width = results[0].shape[:2]
    tops = sorted({place.top * factor for place in places})
    lefts = sorted({place.left * factor for place in places})
    canvas = np.zeros((tops[-1] + height, lefts[-1] + width, 3), dtype=np.float32)
    rows, columns = _windows(tops, height), _windows(lefts, width)
    for result, place in zip(results, places, strict=True):
        top, left = place.top * factor, place.left * factor
        weight = rows[top][:, None] * columns[left]
        canvas[top : top + height, left : left + width] += result * weight[:, :, None]
    cut = canvas[: shape[0] * factor, : shape[1] * factor]
    return np.rint(cut).clip(0, 255).astype(np.uint8)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one side."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _windows(starts: list[int], size: int) -> dict[int, npt.NDArray[np.float32]]:
    """Weights along one side of the tiles that start at `starts`; they sum to 1 at every pixel.

    The weights of a picture are products of those of its two sides, so that they sum to 1 as well.
    """
    weights = {start: np.ones(size) for start in starts}
    for before, after in pairwise(starts):
        common = before + size - after
        rise = np.sin((np.arange(common) + 0.5) / max(common, 1) * np.pi / 2) ** 2
        weights[after][:common] *= rise
        weights[before][size - common :] *= 1 - rise
    total = np.zeros(starts[-1] + size)
    for start, weight in weights.items():
        total[start : start + size] += weight
    return {start: (weight / total[start : start + size]).astype(np.float32) for start, weight in weights.items()}
