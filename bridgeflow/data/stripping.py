"""Picture files without their metadata: what is written beside the pixels, large or damaged, must not hide them.

Kept is what says how the pixels look: transparency, a colour profile, the Exif orientation; each only where it is
whole and of ordinary size.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

MOST_PROFILE = 1 << 20
"""Bytes of a colour profile that is kept."""


def format_of(beginning: bytes) -> str:
    """'PNG', 'JPEG' or 'WebP' by the first 12 bytes of a file; '' for anything else."""
    if beginning.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if beginning.startswith(b"\xff\xd8"):
        return "JPEG"
    return "WebP" if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP" else ""


def without_metadata(data: bytes) -> bytes | None:
    """The file of a PNG, JPEG or WebP picture without the metadata that its pixels do not need; None for another
    format, and where there is nothing to leave out."""
    strip = _STRIPS.get(format_of(data[:12]))
    stripped = data if strip is None else b"".join(strip(data))
    return stripped if stripped != data else None


def _png_parts(data: bytes) -> Iterator[bytes]:
    """The chunks that make the pixels (PNG specification, section 5.3), and what follows where they end early."""
    yield data[:8]
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunk = data[place : place + 12 + length]
        kind = chunk[4:8]
        is_critical = not kind[0] & 0x20
        if is_critical or kind == b"tRNS" or (kind in (b"iCCP", b"eXIf") and _is_whole(chunk)):
            yield chunk
        if kind == b"IEND":
            return
        place += 12 + length


def _is_whole(chunk: bytes) -> bool:
    kind, content = chunk[4:8], chunk[8:-4]
    if struct.pack(">I", zlib.crc32(chunk[4:-4])) != chunk[-4:]:
        return False
    if kind == b"eXIf":
        return True
    packed = content.partition(b"\0")[2]
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed[1:], MOST_PROFILE)
    except zlib.error:
        return False
    return packed[:1] == b"\0" and not unpacking.unconsumed_tail


_APP0, _APP15, _COMMENT, _START_OF_SCAN = 0xE0, 0xEF, 0xFE, 0xDA
_JPEG_KEPT = ((0xE0, b"JFIF\0", 14), (0xE1, b"Exif\0\0", 6), (0xE2, b"ICC_PROFILE\0", 14), (0xEE, b"Adobe", 12))
"""Marker, beginning and least length of the application segments that say how pixels look."""


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """The segments up to the first scan (ITU T.81, annex B), and all that follows; what lies between segments is
    skipped, as decoders do."""
    yield data[:2]
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == _START_OF_SCAN:
            yield data[place:]
            return
        if marker in (0x00, 0xFF):
            place += 1
            continue
        length = 2 + struct.unpack_from(">H", data, place + 2)[0]
        segment = data[place : place + length]
        is_metadata = _APP0 <= marker <= _APP15 or marker == _COMMENT
        content = segment[4:]
        if not is_metadata or any(
            marker == kept and content.startswith(beginning) and len(content) >= least
            for kept, beginning, least in _JPEG_KEPT
        ):
            yield segment
        place += max(length, 2)


_EXIF_AND_XMP = 0x0C


def _webp_parts(data: bytes) -> Iterator[bytes]:
    """The chunks that make the pixels (WebP container specification), in a RIFF of their length."""
    chunks: list[bytes] = []
    place = 12
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], struct.unpack_from("<I", data, place + 4)[0]
        end = place + 8 + length + length % 2
        chunk = data[place:end]
        if kind == b"VP8X" and length >= 1:
            chunk = chunk[:8] + bytes([chunk[8] & ~_EXIF_AND_XMP]) + chunk[9:]
        if kind not in (b"EXIF", b"XMP "):
            chunks.append(chunk)
        place = end
    body = b"WEBP" + b"".join(chunks)
    yield b"RIFF" + struct.pack("<I", len(body)) + body


_STRIPS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "PNG": _png_parts,
    "JPEG": _jpeg_parts,
    "WebP": _webp_parts,
}
