"""Standard output belongs to results: what else is printed meanwhile goes to another stream."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


@contextmanager
def redirected(stream: TextIO) -> Iterator[TextIO]:
    """Sends to a stream whatever is printed while this lasts: by Python, by C code, and by processes that are started.
    Gives what still writes to standard output itself.

    A stream without a file of its own, as in tests, gets what Python prints; the rest then goes to stderr.
    """
    own = sys.stdout
    with suppress(AttributeError, ValueError):
        own.flush()
    try:
        kept = os.dup(1)
    except OSError:
        # Closed by whoever started the process.
        kept = None
    results = _writing_to(kept, own)
    _point_1_to(stream)
    sys.stdout = stream
    try:
        yield results
    finally:
        _flush_c()
        with suppress(AttributeError, ValueError):
            stream.flush()
        sys.stdout = own
        try:
            results.flush()
        finally:
            if results is not own:
                with suppress(OSError):
                    results.close()
            if kept is not None:
                os.dup2(kept, 1)
                os.close(kept)


def _writing_to(kept: int | None, own: TextIO) -> TextIO:
    """What writes where standard output went: a stream like it on a file descriptor of its own, or itself where it is
    no file."""
    if own is None or kept is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(own, io.TextIOWrapper) or _descriptor(own) != 1:
        return own
    return io.TextIOWrapper(
        open(os.dup(kept), "wb"),
        encoding=own.encoding,
        errors=own.errors,
        line_buffering=own.line_buffering,
        write_through=own.write_through,
    )


def _point_1_to(stream: TextIO) -> None:
    descriptor = _descriptor(stream)
    with suppress(OSError):
        os.dup2(2 if descriptor is None else descriptor, 1)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _flush_c() -> None:
    """What C code has printed waits in a buffer of the C library, which would go to wherever 1 points by then."""
    ctypes = sys.modules.get("ctypes")
    if ctypes is not None:
        with suppress(Exception):
            ctypes.CDLL(None).fflush(None)
