"""The edges of a picture, by its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def find_edges(picture: NDArray[Any]) -> NDArray[np.float32]:
    """The edge map, float32 (H, W) in [0, 1], of a picture, uint8 (H, W, 3).

    The length of the gradient by the filter of Sobel and Feldman (1968), taken in each colour, of which the largest
    counts: two colours of the same brightness have an edge between them too. A step from black to white gives 1.
    """
    values = np.pad(picture.astype(np.float32) / 255, ((1, 1), (1, 1), (0, 0)), mode="edge")
    # The filter is a difference along one axis and a mean with weights 1, 2, 1 along the other.
    across = values[:, 2:] - values[:, :-2]
    across = (across[:-2] + 2 * across[1:-1] + across[2:]) / 4
    down = values[2:] - values[:-2]
    down = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 4
    strength: NDArray[np.float32] = np.hypot(across, down).max(axis=2)
    return strength.clip(0.0, 1.0)
