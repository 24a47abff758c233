"""The caption of a row where it has several."""

from __future__ import annotations

from typing import Any

import numpy as np

from bridgeflow.errors import BridgeflowError


def one_caption(value: Any, rng: np.random.Generator) -> Any:
    """The caption itself, or one of a list drawn by `rng`.

    Raises BridgeflowError for a list without a caption.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise BridgeflowError("the list of captions is empty: give at least one.")
        return value[int(rng.integers(len(value)))]
    return value
