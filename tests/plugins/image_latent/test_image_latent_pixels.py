"""Opening pictures of every kind, and fitting them to a size."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.image_latent.pixels import MAX_PIXELS, fit_image, open_image, to_images, to_tensor


def encoded(image: Image.Image, format: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **settings)
    return stream.getvalue()


def coloured(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def one_line(error: pytest.ExceptionInfo[BridgeflowError], name: str) -> None:
    message = str(error.value)
    assert name in message
    assert "\n" not in message
    assert message.endswith(".")


# -- modes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_rgb_is_read_as_it_is(format: str, tmp_path: Path) -> None:
    picture = coloured()
    settings = {"lossless": True, "exact": True} if format == "WEBP" else {}
    path = tmp_path / f"picture.{format.lower()}"
    Image.fromarray(picture).save(path, format, **settings)
    for value in (path, str(path), path.read_bytes(), {"path": str(path), "bytes": None}):
        np.testing.assert_array_equal(open_image(value), picture)
    np.testing.assert_array_equal(open_image({"path": "gone.png", "bytes": path.read_bytes()}), picture)


def test_a_path_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "picture.png").write_bytes(encoded(Image.fromarray(coloured())))
    np.testing.assert_array_equal(open_image("~/picture.png"), coloured())


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.array([[0, 100, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(open_image(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, 2))


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    assert open_image(encoded(image))[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (0, 0, 0, alpha))
    opened = open_image(image.convert("RGBa")) if mode == "RGBa" else open_image(encoded(image.convert(mode)))
    assert opened[0].tolist() == [[255] * 3, [127] * 3, [0] * 3]


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 250])
    image.putpixel((1, 0), 1)
    assert open_image(encoded(image))[0].tolist() == [[200, 10, 20], [30, 40, 250]]
    assert open_image(encoded(image, transparency=0))[0].tolist() == [[255] * 3, [30, 40, 250]]


def test_a_transparent_colour_of_an_rgb_png_becomes_white() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    assert open_image(encoded(image, transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [9] * 3]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_divided_by_257(format: str) -> None:
    deep = np.array([[0, 257, 300, 32896, 65535]], dtype=np.uint16)
    assert open_image(encoded(Image.fromarray(deep), format))[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_thirty_two_bit_integers_hold_sixteen() -> None:
    image = Image.fromarray(np.array([[0, 65535, 70000, -3]], dtype=np.int32))
    assert image.mode == "I"
    assert open_image(image)[0, :, 1].tolist() == [0, 255, 255, 0]


def test_floating_point_tiff_is_scaled_from_one() -> None:
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert open_image(encoded(image, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_and_ycbcr_become_rgb() -> None:
    assert open_image(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF")).tolist() == [[[255, 0, 0]]]
    red = open_image(encoded(Image.new("RGB", (1, 1), "red").convert("YCbCr"), "TIFF"))[0, 0]
    assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_an_animation_counts(format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert np.abs(open_image(data)[2, 2].astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_sets_the_picture_upright(format: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :16] = 255
    # What a camera stores: the upright picture, turned by the inverse of what the tag asks for.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    opened = open_image(encoded(image, format, exif=exif))
    assert opened.shape == (16, 32, 3)
    assert np.abs(opened.astype(int) - upright).max() <= 40
    assert open_image(image).shape == stored.shape


def test_broken_exif_leaves_the_pixels_readable() -> None:
    data = encoded(Image.fromarray(coloured()), "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff")
    np.testing.assert_array_equal(open_image(data), coloured())


# -- arrays --------------------------------------------------------------------------------------------------


def test_an_rgb_array_is_taken_without_a_copy() -> None:
    picture = coloured()
    assert np.shares_memory(open_image(picture), picture)


@pytest.mark.parametrize(
    ("array", "level"),
    [
        (np.full((2, 3), 7, np.uint8), 7),
        (np.full((2, 3, 1), 7, np.uint8), 7),
        (np.full((2, 3, 3), 65535, np.uint16), 255),
        (np.full((2, 3), 32896, ">u2"), 128),
        (np.ones((2, 3), bool), 255),
        (np.full((2, 3), 0.5), 128),
        (np.full((2, 3, 4), 0, np.uint8), 255),
        (np.full((2, 3, 4), 51, np.uint8), 214),
    ],
)
def test_arrays_of_other_kinds(array: np.ndarray, level: int) -> None:
    opened = open_image(array)
    assert opened.dtype == np.uint8
    np.testing.assert_array_equal(opened, np.full((2, 3, 3), level))


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros((3, 8, 8), np.uint8), "shape (3, 8, 8)"),
        (np.zeros((0, 8, 3), np.uint8), "shape (0, 8, 3)"),
        (np.full((2, 2), 3.0), "from 3 to 3"),
        (np.full((2, 2), np.nan), "nan"),
        (np.zeros((2, 2), np.int64), "int64"),
        (7, "int"),
        ({"path": None, "bytes": None}, "'path'"),
    ],
)
def test_what_is_no_picture_is_refused(array: Any, part: str) -> None:
    with pytest.raises(BridgeflowError) as error:
        open_image(array)
    one_line(error, part)


# -- files that cannot be read -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_truncated_file_is_named(format: str, tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(coloured(64, 64)), format)
    path = tmp_path / "half.img"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BridgeflowError) as error:
        open_image(path)
    one_line(error, str(path))


@pytest.mark.parametrize(("content", "part"), [(b"", "empty"), (b"no picture at all", "known format")])
def test_an_empty_or_foreign_file_is_named(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "thing.png"
    path.write_bytes(content)
    with pytest.raises(BridgeflowError, match=part) as error:
        open_image(path)
    one_line(error, str(path))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(BridgeflowError, match="does not exist") as error:
        open_image(tmp_path / "gone.png")
    one_line(error, "gone.png")
    with pytest.raises(BridgeflowError, match="is a folder") as error:
        open_image(tmp_path)
    one_line(error, str(tmp_path))


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_001, 10_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(BridgeflowError, match=r"20001x10000 pixels") as error:
        open_image(path)
    one_line(error, "bomb.png")


@pytest.mark.filterwarnings("error")
def test_the_limit_is_ours_and_pils_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = encoded(Image.fromarray(coloured(40, 40)), "TIFF")
    shapes: list[tuple[int, ...]] = []
    threads = [threading.Thread(target=lambda: shapes.append(open_image(data).shape)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(40, 40, 3)] * 8
    assert Image.MAX_IMAGE_PIXELS == 10
    assert MAX_PIXELS == 200_000_000


def test_a_picture_of_one_pixel() -> None:
    one = open_image(encoded(Image.new("RGB", (1, 1), (3, 200, 9))))
    assert one.tolist() == [[[3, 200, 9]]]
    np.testing.assert_array_equal(fit_image(one, (6, 4)), np.broadcast_to(one, (6, 4, 3)))


# -- fitting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_a_picture_of_the_size_is_returned_itself(resize: Any) -> None:
    picture = coloured()
    assert fit_image(picture, (5, 7), resize) is picture


def test_crop_cuts_the_centre_where_one_side_fits() -> None:
    picture = coloured(8, 13)
    np.testing.assert_array_equal(fit_image(picture, (8, 8), "crop"), picture[:, 2:10])
    np.testing.assert_array_equal(fit_image(picture, (4, 13), "crop"), picture[2:6])


def test_crop_keeps_the_aspect_ratio_and_stretch_fills() -> None:
    # Three square fields side by side: the crop keeps the one in the middle, stretching keeps all three.
    fields = np.repeat(np.array([[[10] * 3, [120] * 3, [230] * 3]], np.uint8), 60, axis=0).repeat(60, axis=1)
    assert fields.shape == (60, 180, 3)
    assert set(np.unique(fit_image(fields, (20, 20), "crop")[:, 2:-2])) == {120}
    stretched = fit_image(fields, (30, 30), "stretch")
    assert stretched[15, [3, 15, 26], 0].tolist() == [10, 120, 230]
    upright = fit_image(fields.swapaxes(0, 1).copy(), (20, 20), "crop")
    assert set(np.unique(upright[2:-2])) == {120}


@pytest.mark.parametrize("shape", [(101, 333), (333, 101), (7, 5), (64, 65), (1, 50), (999, 1000)])
@pytest.mark.parametrize("size", [(64, 64), (32, 48), (3, 99)])
@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_every_shape_fits_every_size(shape: tuple[int, int], size: tuple[int, int], resize: Any) -> None:
    fitted = fit_image(np.full((*shape, 3), 77, np.uint8), size, resize)
    assert fitted.shape == (*size, 3)
    assert set(np.unique(fitted)) == {77}


def test_crop_is_the_centre_of_the_picture_resized_whole() -> None:
    picture = coloured(32, 64)
    whole = np.asarray(Image.fromarray(picture).resize((32, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(fit_image(picture, (16, 16), "crop"), whole[:, 8:24])


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = fit_image(stripes, (32, 32))[4:-4, 4:-4].astype(int)
    assert np.abs(inner - 127.5).max() <= 2


# -- tensors -------------------------------------------------------------------------------------------------


def test_tensors_and_back_keep_every_level() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pixels = to_tensor([levels, levels[::-1]])
    assert pixels.shape == (2, 3, 16, 16)
    assert pixels.dtype == torch.float32
    assert (pixels.min(), pixels.max()) == (-1, 1)
    back = to_images(pixels)
    np.testing.assert_array_equal(back[0], levels)
    np.testing.assert_array_equal(back[1], levels[::-1])


def test_images_are_rounded_and_clipped() -> None:
    values = torch.tensor([-3.0, 3.0, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1]).expand(1, 3, 1, 4)
    assert to_images(values)[0][0, :, 0].tolist() == [0, 255, 100, 101]
    assert to_images(torch.zeros(1, 3, 1, 1, dtype=torch.bfloat16))[0][0, 0, 0] == 128
