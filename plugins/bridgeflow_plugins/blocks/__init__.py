"""The blocks world: an endless, procedural data set of coloured solids on a plane.

Image, exact depth, caption and mask of every scene are aligned. Scene `index` of a seed and split is the same
on every machine.
"""

from __future__ import annotations

import os
from typing import ClassVar

from pydantic import Field

from bridgeflow.data.rows import DataSettings, Rows, Split
from bridgeflow.modality import Progress
from bridgeflow_plugins.blocks.caption import RELATIONS, Mention, parse_caption
from bridgeflow_plugins.blocks.render import render_scene
from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES

__all__ = ["COLOURS", "RELATIONS", "SHAPES", "SIZES", "Blocks", "Mention", "parse_caption", "render_scene"]


class Blocks(DataSettings):
    """Scenes of one to three coloured solids, rendered once and kept in a cache.

    Columns: `image` (H, W, 3) uint8; `depth` (H, W) float32, metres along the viewing axis; `text`, the
    caption; `objects` (H, W) uint8, 0 for the background, i for the i-th solid of the caption.
    """

    summary: ClassVar[str] = "coloured solids on a plane: image, exact depth, caption and mask (embedded, endless)"
    knowledge: ClassVar[str] = (
        "It knows the blocks world, rendered scenes of one to three coloured solids on a floor, and no photographs."
    )
    of_files: ClassVar[bool] = False
    known_columns: ClassVar[tuple[str, ...]] = ("image", "depth", "text", "objects")

    size: int = Field(default=16384, ge=1)
    """Training scenes."""
    held_out: int = Field(default=1024, ge=1)
    """Scenes kept out of training, drawn apart from the training scenes."""
    resolution: int = Field(default=64, ge=16, le=1024)
    """Width and height of image, depth and mask, in pixels."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Which world: scene i of a seed is always the same."""
    workers: int | None = Field(default=None, ge=1)
    """Processes that render; all cores by default."""
    cache: str | None = None
    """Folder that keeps the rendered scenes; BRIDGEFLOW_CACHE or ~/.cache/bridgeflow by default."""

    def open(self, split: Split, progress: Progress | None = None) -> Rows:
        """The rows of a split, rendered first where the cache does not hold them.

        Raises BridgeflowError where the cache folder cannot be written to.
        """
        return self._rows(split, self.size if split == "train" else self.held_out, progress)

    def open_first(self, count: int, progress: Progress | None = None) -> Rows:
        """The training rows where they are rendered already, else the first `count` alone. Raises as `open`."""
        from bridgeflow_plugins.blocks.cache import cache_folder, rendered_rows
        from bridgeflow_plugins.blocks.produce import World

        whole = rendered_rows(World(self.seed, "train", self.size, self.resolution), cache_folder(self.cache))
        return whole or self._rows("train", min(count, self.size), progress)

    def _rows(self, split: Split, count: int, progress: Progress | None) -> Rows:
        from bridgeflow_plugins.blocks.cache import cache_folder, open_rows
        from bridgeflow_plugins.blocks.produce import World

        world = World(self.seed, split, count, self.resolution)
        return open_rows(world, cache_folder(self.cache), self.workers or _cores(), progress)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
