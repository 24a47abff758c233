"""A value of a row that may be a list, of which one is drawn each time: several captions of a picture, say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item


def read_drawn(value: Any, read: Callable[[Any], Item], rng: np.random.Generator, what: str = "values") -> Item:
    """What `read` makes of the value, or of one of a list, drawn by `rng` among those that can be read.

    what: the list's own name for them, as 'captions'. Raises BridgeflowError where none can be read.
    """
    if not isinstance(value, list | tuple):
        return read(value)
    left = list(value)
    error = BridgeflowError(f"the list of {what} is empty: give at least one.")
    while left:
        try:
            return read(left.pop(int(rng.integers(len(left)))))
        except BridgeflowError as unread:
            error = unread
    raise error
