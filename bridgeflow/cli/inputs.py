"""What `run` is given: files, folders, words, lines."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bridgeflow.data.contents import ending_of, files_for
from bridgeflow.data.files import check_file
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import quoted

LONGEST_LINE = 1 << 20
"""Characters of a line on stdin: whatever is longer is no line of text."""
LARGEST_FILE = 1 << 28
"""Bytes of a file of lines."""


@dataclass
class Input:
    """An input: what a person calls it, and what the source modality reads, or why there is nothing to
    read."""

    name: str
    value: Any

    def read(self, read: Callable[[Any], Any]) -> Any:
        """The source item, made by `read`. Raises BridgeflowError where it cannot be read."""
        if isinstance(self.value, BridgeflowError):
            raise self.value
        return read(self.value)


def lines_on_stdin() -> list[str | Input]:
    """The lines piped in that are not empty, and an input that cannot be read for each that is no line of text. Raises
    UsageError where there is none."""
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("nothing to run on: give files, folders or text, or lines on stdin.")
    given: list[str | Input] = []
    # Lines of bytes, for one that is not UTF-8 says nothing of the next.
    stream = getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode("utf-8", "surrogateescape"))
    for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE), b""), 1):
        name = f"line {number} on stdin"
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while (rest := stream.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            told = f"{name} has {LONGEST_LINE:,} bytes or more: give one input a line."
            given.append(Input(name, BridgeflowError(told)))
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            given.append(Input(name, BridgeflowError(f"{name} is not UTF-8 text ({error.reason}): save it as such.")))
            continue
        if text:
            given.append(text)
    if not given:
        raise click.UsageError("nothing to run on: stdin held no line.")
    return given


def expand(given: Sequence[str | Input], source: Any, warn: Callable[[str], None] | None = None) -> list[Input]:
    """Inputs for a source modality: the files of folders, the lines of text files, words as they are.

    One for which there is nothing to read, such as a folder without a picture, holds the reason. warn: called with a
    sentence on pictures in a folder that are left out.
    """
    found: list[Input] = []
    for value in given:
        if isinstance(value, Input):
            found.append(value)
            continue
        try:
            found += _inputs_of(value, source, warn)
        except BridgeflowError as error:
            found.append(Input(value, error))
    return found


def _inputs_of(value: str, source: Any, warn: Callable[[str], None] | None) -> list[Input]:
    """What one argument stands for. Raises BridgeflowError where that is nothing to read."""
    path = _existing(value)
    if path is not None and path.is_dir():
        files, notes = files_for(path, source.reads, source.column)
        if not files:
            why = f" ({'; '.join(notes)})" if notes else ""
            more = len(source.reads) - 5
            endings = ", ".join(source.reads[:5]) + (f" or {more} others" if more > 0 else "")
            raise BridgeflowError(f"the folder {value!r} holds no file that ends in {endings}{why}: name another.")
        if notes and warn is not None:
            warn(f"{value}: {'; '.join(notes)}.")
    elif not source.textual:
        files = [path or Path(value)]
    elif path is not None and ending_of(value) in source.reads:
        files = [path]
    elif len(value) < 1000 and value.lower().endswith(source.reads) and len(value.split()) == 1:
        raise BridgeflowError(f"there is no file {quoted(value)}: check its name, or give the words themselves.")
    else:
        return [Input(value, value)]
    if not source.textual:
        return [Input(str(file), file) for file in files]
    return [entry for file in files for entry in _lines_of(file)]


def read_one(value: str, source: Any, option: str, read: Callable[[Any], Any]) -> Any:
    """The item, made by `read`, of an option that takes one input, such as `--plus`.

    Raises UsageError where the value holds several, and BridgeflowError where it cannot be read.
    """
    entries = expand([value], source)
    if len(entries) != 1:
        raise click.UsageError(f"{option} {value!r} holds {len(entries)} inputs, but takes one at a time.")
    return entries[0].read(read)


def _existing(value: str) -> Path | None:
    """The path that a value names, where there is one; words can be longer than any file name."""
    try:
        return Path(value) if Path(value).exists() else None
    except (OSError, ValueError):
        return None


def _lines_of(path: Path) -> list[Input]:
    """The lines of a text file that are not empty; of one that cannot be read, an input that says why."""
    try:
        check_file(path, "a file of lines", LARGEST_FILE)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except BridgeflowError as error:
        return [Input(str(path), error)]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error.strerror
        told = f"{path} cannot be read as UTF-8 text ({reason}): save it in UTF-8."
        return [Input(str(path), BridgeflowError(told))]
    found = [Input(line.strip(), line.strip()) for line in lines if line.strip()]
    return found or [Input(str(path), BridgeflowError(f"{path} holds no line of text: write one input a line."))]
