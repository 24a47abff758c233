"""Minimal ICC profiles (ICC.1:2001), made of bytes."""

from __future__ import annotations

import struct

Primaries = tuple[tuple[float, float, float], ...]

D50 = (0.9642, 1.0, 0.8249)
ADOBE_LIKE: Primaries = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
"""XYZ of red, green and blue of a space wider than sRGB, adapted to D50."""
SRGB: Primaries = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _xyz(*numbers: float) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*numbers)


def _curve(points: list[int]) -> bytes:
    """A tone curve: its gamma in 1/256, or a table of 16-bit values."""
    return b"curv" + bytes(4) + struct.pack(f">I{len(points)}H", len(points), *points)


def srgb_curve() -> list[int]:
    """IEC 61966-2-1 as a table."""
    steps = [number / 1023 for number in range(1024)]
    return [round(65535 * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)) for v in steps]


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    place, table, content = 132 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", place + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    header = struct.pack(">I", place + len(content)) + bytes(4) + b"\2\x40\0\0" + b"mntr" + space + b"XYZ "
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def rgb_profile(primaries: Primaries = ADOBE_LIKE, curve: list[int] | None = None) -> bytes:
    """A profile of three primaries and one tone curve, by default gamma 2.2."""
    channels = (b"r", b"g", b"b")
    colours = {name + b"XYZ": _xyz(*own) for name, own in zip(channels, primaries, strict=True)}
    return _profile(b"RGB ", {**colours, **{name + b"TRC": _curve(curve or [563]) for name in channels}})


def grey_profile(gamma: float = 1.0) -> bytes:
    """A profile of grey with a tone curve."""
    return _profile(b"GRAY", {b"wtpt": _xyz(*D50), b"kTRC": _curve([round(gamma * 256)])})
