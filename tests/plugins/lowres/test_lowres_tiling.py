"""Tiles and how their results become one picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bridgeflow.errors import UsageError
from bridgeflow_plugins.lowres.tiling import Place, blend, places, tiles


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def nearest(image: np.ndarray, factor: int) -> np.ndarray:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def test_places_cover_the_picture_evenly() -> None:
    assert places((16, 16), (16, 16), 4) == [Place(0, 0)]
    assert places((16, 28), (16, 16), 4) == [Place(0, 0), Place(0, 12)]
    assert [p.left for p in places((16, 29), (16, 16), 4)] == [0, 6, 13]
    assert places((5, 40), (16, 16), 0) == [Place(0, 0), Place(0, 12), Place(0, 24)]


@pytest.mark.parametrize("length", range(1, 70))
@pytest.mark.parametrize("overlap", [0, 3, 8])
def test_tiles_leave_no_gap_and_keep_their_overlap(length: int, overlap: int) -> None:
    tops = [p.top for p in places((length, 16), (16, 16), overlap)]
    assert tops[0] == 0
    assert tops[-1] == max(length - 16, 0)
    assert all(0 < after - before <= 16 - overlap for before, after in pairwise(tops))


@pytest.mark.parametrize("shape", [(16, 16), (17, 16), (31, 45), (100, 33), (3, 5), (1, 1), (1, 60), (20, 9)])
@pytest.mark.parametrize("overlap", [0, 4, 8])
@pytest.mark.parametrize("factor", [1, 3])
def test_exact_results_are_put_together_exactly(shape: tuple[int, int], overlap: int, factor: int) -> None:
    image = picture(*shape)
    cut = tiles(image, 16, overlap)
    assert all(tile.image.shape == (16, 16, 3) for tile in cut)
    results = [nearest(tile.image, factor) for tile in cut]
    joined = blend(results, [tile.place for tile in cut], shape, factor)
    assert joined.dtype == np.uint8
    np.testing.assert_array_equal(joined, nearest(image, factor))


def test_tiles_need_not_be_square() -> None:
    image = picture(40, 50)
    cut = tiles(image, (8, 20), 2)
    assert all(tile.image.shape == (8, 20, 3) for tile in cut)
    np.testing.assert_array_equal(blend([t.image for t in cut], [t.place for t in cut], (40, 50)), image)


def test_small_pictures_are_continued_by_reflection() -> None:
    image = picture(3, 4)
    (tile,) = tiles(image, 5, 0)
    np.testing.assert_array_equal(tile.image[3, :4], image[1])
    np.testing.assert_array_equal(tile.image[:3, 4], image[:, 2])


def test_tiles_that_disagree_melt_without_a_seam() -> None:
    found = places((16, 48), (16, 16), 8)
    assert [p.left for p in found] == [0, 8, 16, 24, 32]
    dark, bright = np.full((16, 16, 3), 50, np.uint8), np.full((16, 16, 3), 150, np.uint8)
    line = blend([dark, dark, bright, bright, bright], found, (16, 48))[7, :, 0].astype(int)
    assert set(line[:16]) == {50}
    assert set(line[24:]) == {150}
    assert (np.diff(line) >= 0).all()
    assert np.diff(line).max() <= 21
    assert line[19] + line[20] == 200


def test_an_overlap_of_more_than_half_a_tile_is_refused() -> None:
    for overlap in (9, -1):
        with pytest.raises(UsageError, match="from 0 to 8"):
            tiles(picture(20, 20), 16, overlap)
