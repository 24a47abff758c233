"""Made-up rows of the tasks: scenes of the blocks world."""

from __future__ import annotations

from typing import Any

import numpy as np

from bridgeflow_plugins.blocks.render import render_scene


def made_up_scene(rng: np.random.Generator, resolution: int = 64) -> dict[str, Any]:
    """`image` uint8 (H, W, 3), `depth` float32 (H, W) in metres, `text` and `objects` uint8 (H, W) of a scene that
    `rng` picks."""
    return render_scene(int(rng.integers(2**32)), "train", 0, resolution)
