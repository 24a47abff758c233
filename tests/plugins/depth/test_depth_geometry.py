"""Depth maps at the model's size: in step with the picture, honest about holes, no points in empty air."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.depth.geometry import check_aligned, fit_depth, valid_share
from bridgeflow_plugins.image_latent.pixels import fit_image

NAN = np.float32("nan")


def as_picture(depth: np.ndarray) -> np.ndarray:
    """A picture whose brightness is the depth in twentieths of a metre."""
    return np.repeat(np.round(depth * 20).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("shape", [(96, 160), (140, 90), (101, 77), (40, 64), (64, 97), (43, 180)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (64, 64)])
def test_depth_lies_where_its_picture_lies(
    axis: int, resize: Literal["crop", "stretch"], shape: tuple[int, int], size: tuple[int, int]
) -> None:
    slope = 7.5 / shape[axis]
    depth = (5 + slope * np.indices(shape)[axis]).astype(np.float32)
    # Dithered, as the rounding of a plain ramp to levels would seem to move the picture. For the same reason
    # no picture shrinks by six or more: it would first be halved, with levels rounded up.
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, shape) / 20
    brightness = fit_image(as_picture(depth + dither), size, resize)[:, :, 0] / 20
    # Bicubic filters lack neighbours at the border.
    difference = (fit_depth(depth, size, resize) - brightness)[3:-3, 3:-3].mean(axis=1 - axis)
    assert abs(difference.mean() / slope) < 0.2
    assert np.abs(difference / slope).max() < 0.9


def test_crop_without_scaling_cuts_the_same_pixels_as_the_picture() -> None:
    depth = np.random.default_rng(0).uniform(1, 12, (32, 45)).astype(np.float32)
    picture = fit_image(as_picture(depth), (32, 32), "crop")
    np.testing.assert_array_equal(as_picture(fit_depth(depth, (32, 32), "crop")), picture)


def test_stretch_and_crop_differ_as_they_should() -> None:
    depth = np.tile(np.arange(1, 9, dtype=np.float32), (4, 1))
    np.testing.assert_array_equal(fit_depth(depth, (4, 4), "crop")[0], [3, 4, 5, 6])
    # Neighbouring depths that differ by more than 5% are two surfaces: the nearer one stands.
    np.testing.assert_array_equal(fit_depth(depth, (4, 4), "stretch")[0], [1, 3, 5, 7])


def test_the_same_size_stays_as_it_is() -> None:
    depth = np.array([[1.0, NAN], [3.0, 4.0]], dtype=np.float32)
    np.testing.assert_array_equal(fit_depth(depth, (2, 2), "stretch"), depth)


def test_an_edge_gives_no_depth_between_near_and_far() -> None:
    depth = np.full((96, 96), 10.0, dtype=np.float32)
    rows, columns = np.mgrid[:96, :96]
    disc = (rows - 47) ** 2 + (columns - 50) ** 2 < 30**2
    depth[disc] = 2.0
    fitted = fit_depth(depth, (16, 16), "stretch")
    assert set(np.unique(fitted)) == {2.0, 10.0}
    assert abs((fitted == 2.0).mean() - disc.mean()) < 0.02


def test_a_smooth_surface_is_averaged_not_biased() -> None:
    depth = np.tile(np.linspace(5.0, 5.7, 8, dtype=np.float32), (8, 1))
    np.testing.assert_allclose(fit_depth(depth, (2, 2), "stretch")[0], [5.15, 5.55], rtol=1e-6)


def test_holes_do_not_mix_into_depth_and_stay_holes() -> None:
    depth = np.full((8, 8), 4.0, dtype=np.float32)
    depth[:, :3] = NAN
    depth[0, 7], depth[1, 7] = 0.0, np.inf
    fitted = fit_depth(depth, (4, 4), "stretch")
    # Columns: wholly unmeasured, half measured, measured; the top right pixel is half measured.
    np.testing.assert_array_equal(fitted, np.tile(np.array([NAN, 4, 4, 4], dtype=np.float32), (4, 1)))
    np.testing.assert_array_equal(np.isnan(fit_depth(depth, (4, 4), "stretch", 0.6))[0], [True, True, False, True])


def test_sparse_depth_survives_with_coverage_zero() -> None:
    depth = np.full((64, 64), NAN, dtype=np.float32)
    places = np.arange(3, 64, 8)
    depth[places[:, None], places] = 7.0
    assert np.isnan(fit_depth(depth, (8, 8), "stretch")).all()
    np.testing.assert_array_equal(fit_depth(depth, (8, 8), "stretch", 0.0), np.full((8, 8), 7.0))


def test_aspect_ratios_within_two_percent_are_aligned() -> None:
    check_aligned((480, 640, 3), (240, 320), "row 1")
    check_aligned((480, 640, 3), (240, 324), "row 1")
    with pytest.raises(BridgeflowError, match=r"row 1: the picture is 640x480 but its depth 330x240: .*2%"):
        check_aligned((480, 640, 3), (240, 330), "row 1")
    with pytest.raises(BridgeflowError, match="row 2"):
        check_aligned((480, 640, 3), (640, 480), "row 2")


@pytest.mark.parametrize("density", [0.0, 0.05, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_the_share_of_valid_pixels_is_that_of_the_fitted_map(
    density: float, resize: Literal["crop", "stretch"]
) -> None:
    draw = np.random.default_rng(0)
    depth = np.where(draw.random((50, 90)) < density, np.float32(3), NAN)
    for size in ((50, 90), (8, 8), (64, 24)):
        for coverage in (0.0, 0.5, 1.0):
            fitted = fit_depth(depth, size, resize, coverage)
            assert valid_share(depth, size, resize, coverage) == pytest.approx(np.isfinite(fitted).mean())
