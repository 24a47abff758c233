"""The captions of a row, of which there may be several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridgeflow.errors import BridgeflowError


def all_captions(value: Any, read: Callable[[Any], str]) -> list[str]:
    """What `read` makes of the caption, or of each of a list. Those of a list that cannot be read (an empty one, say)
    are left out, as a draw of another passes them by.

    Raises BridgeflowError where none can be read.
    """
    found: list[str] = []
    error = BridgeflowError("the list of captions is empty: give at least one.")
    for own in value if isinstance(value, list | tuple) else [value]:
        try:
            found.append(read(own))
        except BridgeflowError as unread:
            error = unread
    if not found:
        raise error
    return found
