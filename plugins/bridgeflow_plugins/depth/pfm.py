"""Portable float maps (.pfm): a text header, then float32 rows from the bottom of the picture to its top."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

_HEADER = re.compile(rb"(P[fF])\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?[0-9.]+(?:[eE][-+]?\d+)?)(?:\r?\n|[ \t])")


def decode_pfm(data: bytes) -> NDArray[np.float32]:
    """The array of a PFM file: (H, W) for `Pf`, (H, W, 3) for `PF`, top row first.

    The sign of the header's scale gives the byte order (negative is little-endian). Its size is left out of
    account, as depth tools do: they write all kinds of numbers there and store the values unscaled.

    Raises ValueError where the header or the length does not fit.
    """
    header = _HEADER.match(data)
    if header is None:
        raise ValueError("no PFM header")
    kind, width, height, scale = header.groups()
    shape = (int(height), int(width)) if kind == b"Pf" else (int(height), int(width), 3)
    count = int(np.prod(shape, dtype=object))
    if len(data) - header.end() < 4 * count:
        raise ValueError("fewer values than the PFM header promises")
    order = "<f4" if float(scale) < 0 else ">f4"
    values = np.frombuffer(data, dtype=order, count=count, offset=header.end()).reshape(shape)
    return np.ascontiguousarray(values[::-1]).astype(np.float32)


def encode_pfm(depth: NDArray[np.float32]) -> bytes:
    """A little-endian `Pf` file of an array (H, W)."""
    height, width = depth.shape
    return f"Pf\n{width} {height}\n-1.0\n".encode() + depth[::-1].astype("<f4").tobytes()
