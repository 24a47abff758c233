"""Sentences that are safe to show: what a file or a stranger named comes out as text that moves no cursor."""

from __future__ import annotations

import re
from typing import Any

LONGEST = 560
"""Characters of a line of a message; what is longer loses its middle."""
MOST_LINES = 40
"""Lines of a message that lists mistakes."""
LISTED = "\n  "
"""What stands before each mistake of a message that lists several."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: str) -> str:
    """The text on one line, with control characters, halves of surrogate pairs and marks that turn the direction of
    writing as escapes such as \\x1b: a terminal takes them for orders."""
    return _UNSAFE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """As `printable`, but line ends and tabs stay: output of several lines."""
    return _UNSAFE_IN_LINES.sub(_escape, text)


def bounded(text: str, longest: int = LONGEST) -> str:
    """The text without its middle where it is longer than `longest` characters: its end often holds the fix."""
    if len(text) <= longest:
        return text
    head = longest * 2 // 3
    return f"{text[:head]} [...] {text[-(longest - head - 7) :]}"


def tidy(message: str) -> str:
    """A message as it is shown: printable, on one line but for the mistakes that it lists, and of bounded length."""
    # Cut before it is searched: a message may quote megabytes.
    lines = message.split(LISTED) if len(message) < 1 << 20 else [bounded(message, 1 << 16)]
    shown = [bounded(printable(bounded(line))) for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        shown.append(f"and {len(lines) - MOST_LINES:,} more.")
    return LISTED.join(shown)


def quoted(value: Any, longest: int = 60) -> str:
    """`repr` of a value from a stranger's file, short whatever it holds."""
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= longest else f"{value[:longest]!r}..."
    if isinstance(value, int) and abs(value) > 10**longest:
        return "a huge number"
    if isinstance(value, dict | list | tuple | set):
        name = "mapping" if isinstance(value, dict) else "list"
        # Nested values may be many times larger than the file that they came from.
        plain = len(value) <= 8 and not any(isinstance(v, dict | list | tuple | set) for v in _values(value))
        return bounded(repr(value), longest) if plain else f"a {name} of {len(value):,}"
    return bounded(repr(value), longest)


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)
