"""OpenEXR files (.exr): which of the channels is depth, and one Z channel on the way out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMED = ("z", "depth.z", "depth.v", "depth")
_UNNAMED = ("y", "r", "v")


MAX_NUMBERS = 800_000_000
"""Most numbers in all channels of a file: the library makes room for as many as its header claims."""


class NoDepthChannel(Exception):
    """No channel of a file can be depth; the text lists the channels there are."""


def depth_channel(names: Iterable[str]) -> str | None:
    """The channel that holds depth, or None.

    In this order, whatever the case: Z, depth.Z, depth.V, depth; one of a layer called depth (Blender's
    `ViewLayer.Depth.Z`); Y, R, V; the only channel there is. A Z of another layer is not taken: renderers
    store normals as `Normal.Z`.
    """
    listed = sorted(names)
    by_name = {name.lower(): name for name in listed}
    for wanted in _NAMED:
        if wanted in by_name:
            return by_name[wanted]
    for lower, name in by_name.items():
        if "depth" in lower.split("."):
            return name
    for wanted in _UNNAMED:
        if wanted in by_name:
            return by_name[wanted]
    return listed[0] if len(listed) == 1 else None


def read_exr(path: Path) -> NDArray[np.generic]:
    """The depth channel of a file, (H, W); (H, W, 3) where the file is a colour picture and has no depth.

    Raises NoDepthChannel where no channel can be depth.
    """
    import OpenEXR

    with redirect_stdout(sys.stderr), OpenEXR.File(str(path), header_only=True) as file:
        numbers = sum(_numbers(part) for part in file.parts)
    if numbers > MAX_NUMBERS:
        raise ValueError(f"{numbers:,} numbers in it, more than {MAX_NUMBERS:,}")
    # The library prints warnings to standard output, which is kept for results.
    with redirect_stdout(sys.stderr), OpenEXR.File(str(path), separate_channels=True) as file:
        channels = {name: channel.pixels for name, channel in file.channels().items()}
    chosen = depth_channel(channels)
    if chosen is None:
        raise NoDepthChannel(", ".join(sorted(channels)) or "none")
    if chosen in ("R", "r"):
        others = [channels[name] for name in channels if name.lower() in ("g", "b")]
        # Some renderers can only save grey as three equal channels; three different ones are colour.
        if not all(np.array_equal(channels[chosen], other, equal_nan=True) for other in others):
            return np.stack([channels[chosen], *others], axis=-1)
    return np.asarray(channels[chosen])


def _numbers(part: Any) -> int:
    """Numbers in all channels of a part, as its header has it."""
    (left, top), (right, bottom) = part.header["dataWindow"]
    return (int(right) - int(left) + 1) * (int(bottom) - int(top) + 1) * max(1, len(part.header["channels"]))


def write_exr(depth: NDArray[np.float32], path: Path) -> None:
    """Writes an array (H, W) as the float32 channel Z, compressed without loss."""
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"Z": np.ascontiguousarray(depth)}) as file:
        file.write(str(path))
