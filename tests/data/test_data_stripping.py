"""Pictures whose metadata is large or damaged: the pixels are read all the same."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bridgeflow.data.stripping import format_of, without_metadata
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.depth.formats import read_depth
from bridgeflow_plugins.image_latent.pixels import open_image

PICTURE = np.kron(np.random.default_rng(0).integers(0, 256, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
LARGE = zlib.compress(bytes(3_000_000))
BEFORE_PIXELS = 33
"""Bytes of a PNG's signature and header."""


def encoded(format: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, format, **settings)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes, is_damaged: bool = False) -> bytes:
    check = zlib.crc32(kind + content) ^ is_damaged
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png_with(*chunks: bytes, behind: bool = False) -> bytes:
    plain = encoded("PNG")
    place = len(plain) - 12 if behind else BEFORE_PIXELS
    return plain[:place] + b"".join(chunks) + plain[place:]


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


CHUNKS = {
    "compressed text of 3 MB": [chunk(b"zTXt", b"key\0\0" + LARGE)],
    "international text of 3 MB": [chunk(b"iTXt", b"key\0\1\0\0\0" + LARGE)],
    "profile of 3 MB": [chunk(b"iCCP", b"key\0\0" + LARGE)],
    "profile without a method": [chunk(b"iCCP", b"key")],
    "profile of another method": [chunk(b"iCCP", b"key\0\5" + zlib.compress(b"profile"))],
    "70 texts of 1 MB": [chunk(b"tEXt", b"key\0" + bytes(1_000_000))] * 70,
    "damaged text": [chunk(b"tEXt", b"key\0words", is_damaged=True)],
    "damaged Exif": [chunk(b"eXIf", b"words", is_damaged=True)],
    "damaged private chunk": [chunk(b"prVt", b"words", is_damaged=True)],
    "short gamma": [chunk(b"gAMA", b"1")],
    "short resolution": [chunk(b"pHYs", b"1")],
    "short animation": [chunk(b"acTL", b"1")],
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
def test_png_metadata_hides_no_pixels(name: str, behind: bool) -> None:
    np.testing.assert_array_equal(open_image(png_with(*CHUNKS[name], behind=behind)), PICTURE)


SEGMENTS = {
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "bytes between segments": b"words",
    "Photoshop cut short": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_jpeg_metadata_hides_no_pixels(name: str) -> None:
    plain = encoded("JPEG", quality=95)
    np.testing.assert_array_equal(open_image(plain[:2] + SEGMENTS[name] + plain[2:]), open_image(plain))


@pytest.mark.parametrize("kind", [b"EXIF", b"XMP "])
def test_webp_metadata_of_a_false_length_hides_no_pixels(kind: bytes) -> None:
    data = encoded("WEBP", lossless=True, exif=b"Exif\0\0" + bytes(40), xmp=bytes(40))
    place = data.index(kind) + 4
    np.testing.assert_array_equal(open_image(data[:place] + b"\xff\xff\0\0" + data[place + 4 :]), PICTURE)


def test_what_says_how_pixels_look_is_kept() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    grey = Image.fromarray(np.array([[7, 200]], np.uint8))
    grey.save(stream, "PNG", transparency=7, exif=exif)
    data = stream.getvalue()
    broken = data[:BEFORE_PIXELS] + chunk(b"tEXt", b"key\0words", is_damaged=True) + data[BEFORE_PIXELS:]
    # Turned by 180 degrees, with white where the transparent grey was.
    assert open_image(broken).tolist() == open_image(data).tolist() == [[[200] * 3, [255] * 3]]


def test_depth_with_large_text_is_read() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[1000, 2500]], np.uint16)).save(stream, "PNG")
    data = stream.getvalue()
    for extra in (chunk(b"zTXt", b"key\0\0" + LARGE), chunk(b"tEXt", b"key\0words", is_damaged=True)):
        for place in (BEFORE_PIXELS, len(data) - 12):
            np.testing.assert_allclose(read_depth(data[:place] + extra + data[place:]), [[1.0, 2.5]])


def test_damaged_pixels_stay_an_error_that_is_true() -> None:
    plain = png_with(chunk(b"tEXt", b"key\0words", is_damaged=True))
    damaged_header = encoded("PNG")[:29] + b"????" + encoded("PNG")[33:]
    with pytest.raises(BridgeflowError, match="is a damaged PNG file: save it again"):
        open_image(damaged_header)
    with pytest.raises(BridgeflowError, match="cut short or damaged: save it again"):
        open_image(plain[: len(plain) * 2 // 3])
    with pytest.raises(BridgeflowError, match="is a damaged JPEG file: save it again"):
        open_image(encoded("JPEG")[:2] + b"\xff\xe0")


def test_the_limit_of_pixels_holds_without_metadata() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"zTXt", b"key\0\0" + LARGE) + chunk(b"IDAT", LARGE)
    with pytest.raises(BridgeflowError, match="30000x30000 pixels, more than 200,000,000"):
        open_image(bomb + chunk(b"IEND", b""))


def test_files_without_metadata_and_other_formats_are_left_alone() -> None:
    assert without_metadata(encoded("PNG")) is None
    assert without_metadata(encoded("BMP")) is None
    assert [format_of(encoded(name)[:12]) for name in ("PNG", "JPEG", "WEBP", "GIF")] == ["PNG", "JPEG", "WebP", ""]
