"""Items that are computed together, in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from bridgeflow.conditioned import start_of
from bridgeflow.errors import BridgeflowError
from bridgeflow.inference.stages import Piece
from bridgeflow.modality import Item


def check_layouts(items: Sequence[Item], terms: Sequence[Sequence[Piece]]) -> None:
    """Raises BridgeflowError where items are computed in pieces that do not stand in the same places."""
    counts = {len(pieces) for pieces in terms}
    shapes = {tuple(getattr(start_of(item), "shape", ())) for item in items}
    if len(counts) > 1:
        raise BridgeflowError(
            f"these inputs do not go together, because they are computed in {min(counts)} to {max(counts)} pieces: "
            "give inputs of one size."
        )
    if counts != {1} and len(shapes) > 1:
        raise BridgeflowError(
            "these inputs do not go together, because they are cut into pieces and are of different sizes: give inputs "
            "of one size."
        )
