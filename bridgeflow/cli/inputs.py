"""What `run` is given: files, folders, words, lines."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bridgeflow.data.files import check_file
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import quoted

LONGEST_LINE = 1 << 20
"""Characters of a line on stdin: whatever is longer is no line of text."""
LARGEST_FILE = 1 << 28
"""Bytes of a file of lines."""


@dataclass
class Input:
    """Something to carry: what a person calls it, and what the source modality reads."""

    name: str
    value: Any


def lines_on_stdin() -> list[str]:
    """The lines piped in that are not empty. Raises UsageError where there is none."""
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("nothing to run on: give files, folders or text, or lines on stdin.")
    given: list[str] = []
    try:
        for number, line in enumerate(iter(lambda: sys.stdin.readline(LONGEST_LINE), ""), 1):
            if len(line) == LONGEST_LINE and not line.endswith("\n"):
                raise click.UsageError(
                    f"line {number} on stdin has {LONGEST_LINE:,} characters or more: give one input a line."
                )
            if line.strip():
                given.append(line.strip())
    except UnicodeDecodeError as error:
        raise click.UsageError("the lines on stdin are not UTF-8 text.") from error
    if not given:
        raise click.UsageError("nothing to run on: stdin held no line.")
    return given


def expand(given: list[str], source: Any) -> list[Input]:
    """Inputs for a source modality: the files of folders, the lines of text files, words as they are."""
    found: list[Input] = []
    for value in given:
        path = _existing(value)
        if path is not None and path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in source.reads and p.is_file())
            if not files:
                raise BridgeflowError(f"the folder {value!r} holds no file that ends in {', '.join(source.reads)}.")
        elif not source.textual:
            files = [path or Path(value)]
        elif path is not None and path.suffix.lower() in source.reads:
            files = [path]
        elif len(value) < 1000 and value.lower().endswith(source.reads) and len(value.split()) == 1:
            raise BridgeflowError(f"there is no file {quoted(value)}: check its name, or give the words themselves.")
        else:
            found.append(Input(value, value))
            continue
        for file in files:
            found += _lines_of(file) if source.textual else [Input(str(file), file)]
    return found


def read_one(value: str, source: Any, option: str) -> Any:
    """The item of an option that takes one input, such as `--plus`.

    Raises UsageError where the value holds several, and BridgeflowError where it cannot be read.
    """
    entries = expand([value], source)
    if len(entries) != 1:
        raise click.UsageError(f"{option} {value!r} holds {len(entries)} inputs, but takes one at a time.")
    return source.read(entries[0].value)


def _existing(value: str) -> Path | None:
    """The path that a value names, where there is one; words can be longer than any file name."""
    try:
        return Path(value) if Path(value).exists() else None
    except (OSError, ValueError):
        return None


def _lines_of(path: Path) -> list[Input]:
    check_file(path, "a file of lines", LARGEST_FILE)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BridgeflowError(f"{path} cannot be read as UTF-8 text ({error}).") from error
    return [Input(line.strip(), line.strip()) for line in lines if line.strip()]
