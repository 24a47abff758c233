"""Docstrings as Markdown: parameters in a list, examples as code, shapes with their asterisks."""

from __future__ import annotations

import re
from typing import Any

import griffe

PARAMETER = re.compile(r"^(\w+(?:, \w+)*): +")
NEXT = re.compile(r"(?<=\.) (?=[a-z_]+(?:, [a-z_]+)*: )")
"""Before a parameter that follows another on one line."""
STARRED = re.compile(r"(?<=[ (,])(\*{1,2})(?=\w)(?!\w+\*)")
"""The asterisk of a shape such as (B, *shape), which Markdown would take for emphasis."""


def _escaped(line: str) -> str:
    quoted = line.split("`")
    return "`".join(STARRED.sub(r"\\\1", part) if number % 2 == 0 else part for number, part in enumerate(quoted))


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if lines[0].startswith("    "):
        return text
    if lines[0].startswith(">>> "):
        return "\n".join(f"    {line}" for line in lines)
    if not PARAMETER.match(lines[0]):
        return "\n".join(map(_escaped, lines))
    listed = []
    for line in map(_escaped, NEXT.sub("\n", text).split("\n")):
        if PARAMETER.match(line):
            listed.append(PARAMETER.sub(r"- **\1**: ", line))
        else:
            listed.append(f"    {line.strip()}")
    return "\n".join(listed)


def as_markdown(docstring: str) -> str:
    """The docstring with lists and blocks of code as Markdown has them."""
    return "\n\n".join(_paragraph(text) for text in re.split(r"\n{2,}", docstring))


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
