"""Calling code of other distributions: what it does to this process besides is set back, and named."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bridgeflow.errors import PluginWarning

SLOW_SECONDS = 2.0
"""An import that takes longer is named."""


@contextmanager
def in_place(what: str) -> Iterator[None]:
    """Sets the working folder back where it is another one afterwards, and warns of `what` changed it, such as
    'importing the task ...'."""
    before = _working_folder()
    try:
        yield
    finally:
        if before is not None and _working_folder() != before:
            with suppress(OSError):
                os.chdir(before)
                _warn(f"{what} changed the working folder, which was set back: take os.chdir out of the plugin.")


@contextmanager
def quickly(what: str) -> Iterator[None]:
    """Warns of what takes longer than `SLOW_SECONDS`."""
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    if seconds > SLOW_SECONDS:
        _warn(
            f"{what} took {seconds:.1f} s, which every command that uses it waits for: let the plugin import what is "
            "slow in the methods that need it."
        )


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        # It was removed.
        return None


def _warn(sentence: str) -> None:
    warnings.warn(sentence, PluginWarning, stacklevel=2)
