"""Pictures with a colour profile are converted to sRGB as they are read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from profiles import SRGB, grey_profile, rgb_profile, srgb_curve

from bridgeflow_plugins.depth.formats import read_depth
from bridgeflow_plugins.image_latent import ImageLatent
from bridgeflow_plugins.image_latent.modality import ImageOptions
from bridgeflow_plugins.image_latent.pixels import open_image

FIELDS = [(60, 200, 60), (200, 60, 60), (60, 60, 200)]
CONVERTED = [[0, 201, 37], [231, 57, 57], [57, 57, 205]]
"""The fields from the wider space in sRGB, by the matrices of both (0 where it lies outside)."""
LEVELS = 6


def fields() -> Image.Image:
    return Image.fromarray(np.repeat(np.array([FIELDS], np.uint8), 16, axis=1).repeat(16, axis=0))


def encoded(image: Image.Image, format: str, profile: bytes | None, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, icc_profile=profile, **settings)
    return stream.getvalue()


def seen(data: Any) -> np.ndarray:
    """The middle of each field, int (3, 3)."""
    return open_image(data)[8, [8, 24, 40]].astype(int)


FORMATS = {
    "PNG": {},
    "JPEG": {"quality": 98, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


@pytest.mark.parametrize("format", FORMATS)
def test_a_wide_profile_is_converted(format: str, tmp_path: Path) -> None:
    data = encoded(fields(), format, rgb_profile(), **FORMATS[format])
    path = tmp_path / "photo"
    path.write_bytes(data)
    for value in (data, path, {"path": "row.img", "bytes": data}, Image.open(path)):
        assert np.abs(seen(value) - CONVERTED).max() <= LEVELS


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile(SRGB, srgb_curve()),
        rgb_profile()[:200],
        b"no profile at all",
        grey_profile(),
    ],
    ids=["sRGB", "sRGB as a table", "cut short", "garbage", "of grey"],
)
def test_no_bit_changes_under_srgb_and_profiles_of_no_use(format: str, profile: bytes) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    plain = open_image(encoded(image, format, None, **FORMATS[format]))
    np.testing.assert_array_equal(open_image(encoded(image, format, profile, **FORMATS[format])), plain)


def test_the_result_is_written_and_read_without_a_second_conversion(tmp_path: Path) -> None:
    modality = ImageLatent(ImageOptions())
    item = modality.read(encoded(fields(), "PNG", rgb_profile()))
    modality.write(item, tmp_path / "result.png")
    np.testing.assert_array_equal(modality.read(tmp_path / "result.png"), item)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_and_palettes_are_converted_too(mode: str) -> None:
    image = fields().quantize(3) if mode == "P" else fields().convert("RGBA")
    if mode == "RGBA":
        image.putpixel((0, 0), (60, 200, 60, 0))
    data = encoded(image, "PNG", rgb_profile())
    assert np.abs(seen(data) - CONVERTED).max() <= LEVELS
    if mode == "RGBA":
        assert open_image(data)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_follows_its_own_profile(mode: str) -> None:
    """Of light itself: half the light is level 188 in sRGB."""
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    else:
        image = Image.new("L", (4, 4), 128).convert(mode)
    assert np.abs(open_image(encoded(image, "PNG", grey_profile()))[2, 2].astype(int) - 188).max() <= 2


def test_grey_under_an_rgb_profile_follows_its_tone() -> None:
    linear = rgb_profile(SRGB, [256])
    assert np.abs(open_image(encoded(Image.new("L", (4, 4), 128), "PNG", linear))[2, 2].astype(int) - 188).max() <= 2


def test_cmyk_under_a_profile_of_other_colours_is_read_as_without() -> None:
    image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    np.testing.assert_array_equal(
        open_image(encoded(image, "TIFF", rgb_profile())), open_image(encoded(image, "TIFF", None))
    )


def test_depth_keeps_its_numbers_whatever_profile_lies_beside_them() -> None:
    depth = Image.fromarray(np.array([[1000, 2500]], np.uint16))
    np.testing.assert_allclose(read_depth(encoded(depth, "PNG", grey_profile())), [[1.0, 2.5]])
