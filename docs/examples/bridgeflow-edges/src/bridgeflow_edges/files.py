"""Edge maps as PNG files, told apart from pictures by a mark."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from bridgeflow.errors import BridgeflowError
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

MARK = ("Content", "edge map")
"""A line of text inside the PNG files that `write_edges` makes."""


def as_picture(edges: NDArray[np.float32]) -> Image.Image:
    """A grey picture of an edge map (H, W) in [0, 1], white where an edge is."""
    return Image.fromarray(np.rint(edges * 255).astype(np.uint8))


def write_edges(edges: NDArray[np.float32], path: Path) -> None:
    """Writes an edge map (H, W) in [0, 1] as a grey PNG that carries the mark; makes its folders.

    Raises BridgeflowError where `path` has another ending or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise BridgeflowError(f"{path}: edge maps are written as .png, not as {path.suffix!r}: name it so.")
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*MARK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        as_picture(edges).save(path, pnginfo=mark)
    except OSError as error:
        raise BridgeflowError(f"{path} cannot be written ({error.strerror or error}): choose another.") from error


def is_marked(value: Any) -> bool:
    """Whether a path, bytes or a PIL image, known to hold a picture, is an edge map that `write_edges` made."""
    if isinstance(value, Image.Image):
        return bool(value.info.get(MARK[0]) == MARK[1])
    if not isinstance(value, str | Path | bytes):
        return False
    try:
        with Image.open(io.BytesIO(value) if isinstance(value, bytes) else Path(value).expanduser()) as opened:
            return is_marked(opened)
    # PIL refuses some pictures for their metadata, which is then not ours either.
    except Exception:
        return False
