"""Depth maps from files and values, and back to files.

In memory a depth map is float32 (H, W) in metres, NaN where there is no measurement.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from bridgeflow.data.files import check_file, path_of
from bridgeflow.data.stripping import without_metadata
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import printable
from bridgeflow_plugins.depth.exr import NoDepthChannel, read_exr, write_exr
from bridgeflow_plugins.depth.pfm import decode_pfm, encode_pfm

READS = (".png", ".npy", ".npz", ".pfm", ".exr")
"""Endings of the files that `read_depth` takes."""
WRITES = (".png", ".npy", ".pfm", ".exr")
"""Endings that `write_depth` makes."""
MAX_PIXELS = 200_000_000
"""A map with more pixels than this is refused: a small file can claim to be enormous."""
MAX_BYTES = 8 * MAX_PIXELS + 2**20
"""A larger file is refused before it is read."""
PNG_FULL_SCALE = 65535

_MEND = "save depth as a 16-bit PNG, .npy, .npz, .pfm or .exr"
_SIGNATURES = {
    b"\x89PNG": "PNG",
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
    b"Pf": "PFM",
    b"PF": "PFM",
    b"\x76\x2f\x31\x01": "EXR",
}
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def read_depth(value: Any, png_scale: float = 0.001) -> NDArray[np.float32]:
    """A depth map, float32 (H, W) in metres, NaN where invalid (not finite, or not above 0).

    value: a path (str or Path), the bytes of a file, an array (H, W) or (H, W, 1), nested lists, a PIL image
        of mode I;16, I or F, or the mapping {"path": ..., "bytes": ...} of the `datasets` library.
        Floating-point values are metres. Files are told apart by their content, not by their ending.
    png_scale: metres per step of integer values, such as those of a 16-bit PNG: 0.001 for millimetres, 1/256
        for KITTI.

    Raises BridgeflowError, naming the file, where it is missing, damaged or not a depth map.
    """
    name = "the depth map"
    if isinstance(value, Mapping):
        path, data = value.get("path"), value.get("bytes")
        if path is None and data is None:
            raise BridgeflowError("a depth value has neither 'path' nor 'bytes': give a file, its bytes or an array.")
        name = str(path) if path is not None else name
        value = data if data is not None else path
    if isinstance(value, (str, Path)):
        name = str(value)
        path = path_of(value, "a depth file")
        return _clean(_decode(_contents(path), name, path), name, png_scale)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _clean(_decode(bytes(value), name, None), name, png_scale)
    if isinstance(value, Image.Image):
        name = getattr(value, "filename", "") or name
        return _clean(_image_values(value, name), name, png_scale)
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise BridgeflowError(
                f"{name} is a list that is no table of numbers: give rows of equal length."
            ) from error
    if isinstance(value, np.ndarray):
        return _clean(value, name, png_scale)
    raise BridgeflowError(f"depth cannot be read from a {type(value).__name__}: give a file, its bytes or an array.")


def write_depth(depth: NDArray[np.floating[Any]], path: Path, png_scale: float = 0.001) -> None:
    """Writes a map (H, W) in metres, NaN where invalid, in the format that the ending of `path` names.

    `.png` is 16-bit: value = depth / png_scale, rounded, at least 1 where valid, and 0 where invalid. `.npy`,
    `.pfm` and `.exr` (channel Z) hold the float32 values. Missing folders are made.

    Raises BridgeflowError for another ending, for depth that a 16-bit PNG cannot hold, and where the file
    cannot be written.
    """
    depth = np.asarray(depth, dtype=np.float32)
    ending = path.suffix.lower()
    if ending not in WRITES:
        raise BridgeflowError(f"{path}: depth is not written as {ending!r}: choose one of {', '.join(WRITES)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".png":
            Image.fromarray(_png_values(depth, path, png_scale)).save(path)
        elif ending == ".npy":
            np.save(path, depth)
        elif ending == ".pfm":
            path.write_bytes(encode_pfm(depth))
        else:
            write_exr(depth, path)
    except (OSError, RuntimeError) as error:
        raise BridgeflowError(f"cannot write {path}: check that the folder is writable and not full.") from error


def colour(depth: NDArray[np.floating[Any]], inverse: bool = True) -> NDArray[np.uint8]:
    """The map (H, W) as a picture, uint8 (H, W, 3): near is bright and warm, far is dark, invalid is grey.

    Colours span the 2nd to the 98th percentile of inverse depth; of depth itself with `inverse=False`, for
    relative depth, whose inverse has no end.
    """
    from matplotlib import colormaps

    depth = np.asarray(depth, dtype=np.float64)
    picture = np.full((*depth.shape, 3), 128, dtype=np.uint8)
    valid = np.isfinite(depth) & (depth > 0)
    if not valid.any():
        return picture
    nearness = 1.0 / depth[valid] if inverse else -depth[valid]
    low, high = np.percentile(nearness, [2, 98])
    shade = np.clip((nearness - low) / (high - low), 0.0, 1.0) if high > low else np.full_like(nearness, 0.5)
    picture[valid] = np.round(colormaps["magma"](shade)[:, :3] * 255).astype(np.uint8)
    return picture


def _contents(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_dir():
            check_file(path, "a depth file", MAX_BYTES)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BridgeflowError(f"there is no depth file {path}: check the name.") from error
    except IsADirectoryError as error:
        raise BridgeflowError(f"{path} is a folder, not a depth file: name a file in it.") from error
    except (OSError, ValueError) as error:
        raise BridgeflowError(f"cannot read the depth file {path}: check its name and permissions.") from error


def _decode(data: bytes, name: str, path: Path | None) -> NDArray[np.generic]:
    """The array that a file holds, as it is stored."""
    kind = next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), None)
    if kind is None:
        what = "is not a depth file of a known format" if data else "is empty"
        raise BridgeflowError(f"{name} {what}: {_MEND}.")
    try:
        if kind == "PNG":
            return _decode_png(data, name)
        if kind == ".npy":
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        if kind == ".npz":
            return _only_array(data, name)
        if kind == "PFM":
            return decode_pfm(data)
        # The library writes warnings with the file's name to the terminal, as it is.
        return _decode_exr(data, path if name == printable(name) else None)
    except BridgeflowError:
        raise
    except NoDepthChannel as error:
        raise BridgeflowError(f"{name} has no depth channel (channels: {error}): name the channel Z.") from error
    # Decoders answer hostile bytes with errors of any kind, and each means the same to the user.
    except Exception as error:
        if "pickle" in str(error):
            raise BridgeflowError(
                f"{name} holds pickled objects, which are never loaded: save depth as an array of numbers."
            ) from error
        raise BridgeflowError(
            f"{name} is a damaged or incomplete {kind} file: write it again or leave it out."
        ) from error


def _decode_png(data: bytes, name: str) -> NDArray[np.generic]:
    try:
        # `Image.open` has a lower limit on pixels, which it shares with the whole process.
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return _image_values(image, name)
    except Exception:
        # What PIL refuses may be the metadata alone.
        pixels_alone = without_metadata(data)
        if pixels_alone is None:
            raise
    return _decode_png(pixels_alone, name)


def _decode_exr(data: bytes, path: Path | None) -> NDArray[np.generic]:
    if path is not None:
        return read_exr(path)
    # The library opens files by name only.
    with tempfile.TemporaryDirectory(prefix="bridgeflow-") as folder:
        copy = Path(folder) / "depth.exr"
        copy.write_bytes(data)
        return read_exr(copy)


def _only_array(data: bytes, name: str) -> NDArray[np.generic]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > 8 * MAX_PIXELS:
            raise BridgeflowError(f"{name} unpacks to more than {MAX_PIXELS:,} pixels: make the map smaller.")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        if len(arrays.files) != 1:
            listed = ", ".join(arrays.files) or "none"
            raise BridgeflowError(f"{name} should hold one array but holds {len(arrays.files)} ({listed}): keep depth.")
        return np.asarray(arrays[arrays.files[0]])


def _image_values(image: Image.Image, name: str) -> NDArray[np.generic]:
    if image.mode not in (*_DEEP_MODES, "F"):
        what = "an 8-bit grey" if image.mode in ("L", "1") else "a colour"
        raise BridgeflowError(f"{name} is {what} picture, not a depth map: {_MEND}.")
    if image.width * image.height > MAX_PIXELS:
        raise BridgeflowError(f"{name} has more than {MAX_PIXELS:,} pixels: make the map smaller.")
    try:
        return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise BridgeflowError(f"{name} is a damaged or incomplete picture: write it again or leave it out.") from error


def _clean(values: NDArray[Any], name: str, png_scale: float) -> NDArray[np.float32]:
    """Metres, with NaN for whatever is no measurement."""
    shape = values.shape
    if values.ndim == 3 and shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 or values.size == 0:
        raise BridgeflowError(f"{name} has shape {shape}: a depth map has the shape (height, width).")
    if values.size > MAX_PIXELS:
        raise BridgeflowError(f"{name} has more than {MAX_PIXELS:,} pixels: make the map smaller.")
    if values.dtype.kind not in "iuf" or values.dtype.itemsize == 1:
        raise BridgeflowError(f"{name} holds values of type {values.dtype}: give floats in metres or 16-bit integers.")
    with np.errstate(over="ignore"):
        if values.dtype.kind in "iu":
            depth = (values.astype(np.float64) * png_scale).astype(np.float32)
        else:
            depth = np.array(values, dtype=np.float32)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def _png_values(depth: NDArray[np.float32], path: Path, png_scale: float) -> NDArray[np.uint16]:
    valid = np.isfinite(depth) & (depth > 0)
    steps = np.round(np.where(valid, depth, 0.0).astype(np.float64) / png_scale)
    if steps.max(initial=0.0) > PNG_FULL_SCALE:
        raise BridgeflowError(
            f"{path}: depth reaches {depth[valid].max():.4g} m, but a 16-bit PNG with png_scale "
            f"{png_scale:g} ends at {PNG_FULL_SCALE * png_scale:.4g} m: raise png_scale or write .npy."
        )
    return np.where(valid, np.maximum(steps, 1.0), 0.0).astype(np.uint16)
