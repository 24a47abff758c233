"""Pictures as arrays: opening whatever holds one, fitting it to a size, and the way to tensors and back.

A picture is a uint8 array (H, W, 3), RGB, treated as read-only (opening one may give a view of a buffer).
"""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from bridgeflow.data.contents import FORMATS, picture_endings
from bridgeflow.data.files import check_file, path_of
from bridgeflow.data.stripping import format_of, without_metadata
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.image_latent.colours import to_srgb

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""A picture: uint8 (H, W, 3), RGB."""

Resize: TypeAlias = Literal["crop", "stretch"]
"""How a picture is brought to another aspect ratio."""

READING = 1
"""Version of what `open_image` makes of a file, raised with every change of its pixels: latents that were cached before
are made anew then. 1: colour profiles are converted to sRGB."""

MAX_PIXELS = 200_000_000
"""Pictures with more pixels are refused before they are decoded."""

_USUAL = (".png", ".jpg", ".jpeg", ".webp")
IMAGE_ENDINGS = (*_USUAL, *sorted(picture_endings().difference(_USUAL)))
"""Lower-case file endings of pictures, the usual ones first."""

MOST_STRIPPED = 1 << 31
"""Bytes of a file that is read again without its metadata."""

_Encoded: TypeAlias = Path | bytes | bytearray | memoryview

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its Exif orientation (Exif 2.32, tag 0x0112)."""


def open_image(value: Any) -> Pixels:
    """The picture that `value` holds, upright, as uint8 (H, W, 3).

    `value` is a path, encoded bytes, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of
    uint8, uint16, bool or floats in [0, 1], or the `{"path": ..., "bytes": ...}` that the `datasets` library
    gives. Transparency is laid over white; 16 bits become 8 by division by 257; of an animation the first
    frame counts. Pixels with a colour profile are converted to sRGB; other metadata is not needed and may be broken.

    Raises BridgeflowError, naming the file, where there is no picture to be had.
    """
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return _decode(value["bytes"], _name(value.get("path")))
        if value.get("path") is None:
            raise BridgeflowError("a picture was given as a mapping with neither 'path' nor 'bytes': give one of them.")
        value = value["path"]
    if isinstance(value, str | Path):
        return _decode(path_of(value, "a picture"), str(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return _decode(value, _name(None))
    if isinstance(value, Image.Image):
        return _convert(value, _name(getattr(value, "filename", None)))
    if isinstance(value, np.ndarray):
        return _from_array(value)
    raise BridgeflowError(f"a picture cannot be read from a {type(value).__name__}: give a path, bytes or an array.")


def fit_image(image: Pixels, size: tuple[int, int], resize: Resize = "crop") -> Pixels:
    """The picture at `size` (height, width); the very same array where it has that size already.

    Bicubic (Keys 1981 with a = -0.5, as PIL has it), widened by the scale where the picture shrinks, so that
    nothing aliases. "crop" keeps the aspect ratio: the shorter side fits and the centre is cut out of the
    longer. "stretch" brings each side to its size on its own.
    """
    if image.shape[:2] == size:
        return image
    rows, columns = image.shape[:2]
    box = (0.0, 0.0, float(columns), float(rows))
    if resize == "crop":
        scale = max(size[0] / rows, size[1] / columns)
        if scale == 1:
            top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
            return np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])
        # A scale that came from one side gives that side back only up to rounding, hence the min.
        height, width = min(size[0] / scale, rows), min(size[1] / scale, columns)
        top_edge, left_edge = (rows - height) / 2, (columns - width) / 2
        box = (left_edge, top_edge, left_edge + width, top_edge + height)
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(resized)


def to_tensor(images: Sequence[Pixels]) -> Tensor:
    """float32 (B, 3, H, W) in [-1, 1] of pictures that share one size."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1.0)


def to_images(pixels: Tensor) -> list[Pixels]:
    """Pictures of a tensor (B, 3, H, W) in [-1, 1], rounded to the nearest level and clipped."""
    levels = pixels.detach().to("cpu", torch.float32).add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return list(levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy())


def _name(path: Any) -> str:
    return str(path) if path else "the picture given as data"


def _decode(source: _Encoded, name: str) -> Pixels:
    """The picture in a file or in encoded bytes; `name` stands for it in errors."""
    size = check_file(source, "a picture") if isinstance(source, Path) else len(source)
    if size == 0:
        raise BridgeflowError(f"{name} is empty (0 bytes) where a picture was expected: replace it.")
    try:
        return _open(source, name)
    except BridgeflowError:
        # What PIL refuses may be the metadata alone.
        if not format_of(_first_bytes(source, 12)) or size > MOST_STRIPPED:
            raise
        pixels_alone = without_metadata(_first_bytes(source, size))
        if pixels_alone is None:
            raise
        return _open(pixels_alone, name)


def _open(source: _Encoded, name: str) -> Pixels:
    try:
        stream = source if isinstance(source, Path) else io.BytesIO(source)
        with _pixel_limit_of_our_own(), Image.open(stream, formats=_formats()) as image:
            return _convert(image, name)
    except BridgeflowError:
        raise
    except UnidentifiedImageError as error:
        format = format_of(_first_bytes(source, 12))
        if format:
            raise BridgeflowError(f"{name} is a damaged {format} file: save it again.") from error
        raise BridgeflowError(
            f"{name} is not a picture of a known format (PNG, JPEG, WebP, TIFF, GIF, ...): convert it to PNG."
        ) from error
    # Readers of headers, too, raise nearly every kind of error on damaged data.
    except Exception as error:
        of_the_system = isinstance(error, OSError) and error.errno is not None
        fix = "check the file and its rights" if of_the_system else "save it again, as it may be damaged"
        raise BridgeflowError(f"{name} cannot be read as a picture ({_reason(error)}): {fix}.") from error


def _first_bytes(source: _Encoded, count: int) -> bytes:
    """At most `count` bytes; none of a file that the system does not give."""
    if not isinstance(source, Path):
        return bytes(source[:count])
    try:
        with source.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this PIL reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _convert(image: Image.Image, name: str) -> Pixels:
    """The RGB pixels of a PIL image, decoded here if they are not yet."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BridgeflowError(f"{name} has {width}x{height} pixels, more than {MAX_PIXELS:,}: make it smaller first.")
    if width * height == 0:
        raise BridgeflowError(f"{name} has no pixels ({width}x{height}): give a picture of at least 1x1.")
    try:
        # Some formats turn the picture upright while they load, so the orientation is asked for afterwards.
        image.load()
        turn = _TRANSPOSE.get(_orientation(image))
        return _rgb(image if turn is None else image.transpose(turn), name)
    except BridgeflowError:
        raise
    # Decoders raise nearly every kind of error on damaged data.
    except Exception as error:
        raise BridgeflowError(
            f"{name} cannot be decoded ({_reason(error)}), so it may be cut short or damaged: save it again."
        ) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Broken metadata does not make the pixels unreadable; without it the picture stays as it is stored.
    except Exception:
        return 1


def _rgb(image: Image.Image, name: str) -> Pixels:
    profile = image.info.get("icc_profile")
    if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        levels = _from_array(values if image.mode == "F" else values.clip(0, 65535).astype(np.uint16), name)
        return np.asarray(to_srgb(Image.fromarray(levels[:, :, 0]), profile)) if profile else levels
    if not image.has_transparency_data:
        return np.asarray(to_srgb(image, profile))
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    colours = "L" if image.mode in ("L", "LA") else "RGB"
    image = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(to_srgb(image.convert(colours), profile), mask=image.getchannel("A"))
    return np.asarray(opaque)


def _from_array(array: npt.NDArray[Any], name: str = "the array") -> Pixels:
    """uint8 (H, W, 3) from an array of another depth or number of channels."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise BridgeflowError(
            f"{name} has shape {array.shape} where (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) was expected: "
            "put the channels last."
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise BridgeflowError(f"{name} has more than {MAX_PIXELS:,} pixels: make it smaller first.")
    levels = _levels(array, name)
    if levels.shape[2] == 4:
        alpha = levels[:, :, 3:].astype(np.uint32)
        over_white = levels[:, :, :3] * alpha + 255 * (255 - alpha)
        return ((over_white + 127) // 255).astype(np.uint8)
    return levels if levels.shape[2] == 3 else np.repeat(levels, 3, axis=2)


def _levels(array: npt.NDArray[Any], name: str) -> Pixels:
    """The values of an array as levels from 0 to 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        # Written so that not-a-number is refused too; the tolerance is for rounding in earlier arithmetic.
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise BridgeflowError(f"{name} holds values from {low:g} to {high:g}: scale floating point to [0, 1].")
        return np.rint(array.clip(0, 1) * 255).astype(np.uint8)
    raise BridgeflowError(f"{name} holds {array.dtype}: give uint8, uint16, bool or floats in [0, 1].")


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


_limit_lock = threading.Lock()
_limit_holders = 0
_limit_before: int | None = None


@contextmanager
def _pixel_limit_of_our_own() -> Iterator[None]:
    """Lifts PIL's process-wide pixel limit while a picture is opened under `MAX_PIXELS` instead.

    The limit that other code set is back once no thread is in here.
    """
    global _limit_holders, _limit_before
    with _limit_lock:
        if _limit_holders == 0:
            _limit_before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_holders += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_holders -= 1
            if _limit_holders == 0:
                Image.MAX_IMAGE_PIXELS = _limit_before
