"""What is said of texts that are longer than a codec reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bridgeflow.sentences import quoted

SHOWN = 30
"""Characters of the end of what is read that a sentence quotes."""


def advise_on_length(
    texts: Iterable[str],
    length_of: Callable[[str], int],
    read_of: Callable[[str], str],
    limit: int,
    unit: str,
    fix: Callable[[int], str],
) -> list[str]:
    """A sentence on the texts longer than `limit`, or nothing where there are none.

    length_of: units of a text; read_of: the part of a text that is read. fix: what to do, by the greatest length met.
    """
    count = cut = longest = 0
    first = ""
    for text in texts:
        count += 1
        length = length_of(text)
        if length > limit:
            cut += 1
            longest = max(longest, length)
            first = first or text
    if not cut:
        return []
    return [
        f"{cut:,} of {count:,} texts {'has' if cut == 1 else 'have'} more than {limit} {unit}, and what follows is not "
        f"read: {quoted(first)} is read up to {read_of(first)[-SHOWN:]!r}; {fix(longest)}, or shorten the texts."
    ]
