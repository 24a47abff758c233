"""Several results for one input as one: their mean, and how far they are from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Modality


@dataclass(frozen=True)
class Pooled:
    """mean: the item that samples are about. spread: their standard deviation at each place of it (H, W), in the
    item's units."""

    mean: Item
    spread: NDArray[np.float32]


def check_poolable(target: Modality, samples: int) -> None:
    """Raises UsageError where results have no mean, or where there are too few for a spread."""
    if type(target).mean_and_spread is Modality.mean_and_spread:
        raise UsageError(
            f"results of the modality {type(target).__name__} have no mean and no spread: leave --uncertainty out, "
            "and ask eval for one sample."
        )
    if samples < 2:
        raise UsageError("an uncertainty needs several results for each input: give --samples 2 or more, such as 8.")


def pooled(target: Modality, samples: Sequence[Item]) -> Pooled:
    """The samples of one input as one."""
    found = target.mean_and_spread(samples)
    assert found is not None
    return Pooled(*found)


def check_drawn(spreads: Sequence[NDArray[np.floating]], samples: int) -> None:
    """Raises BridgeflowError where all samples are the same, as those of a model that draws nothing: a spread of 0
    would say that it is sure."""
    if spreads and not any(own.any() for own in spreads):
        raise BridgeflowError(
            f"all {samples} results are the same, since this model draws nothing (or, of one input, since it is "
            "sure of it), and say nothing of what is uncertain: train one that draws, such as with "
            "source_encoder.sigma=0.1 and sampling.source=sample."
        )


def heat(spread: NDArray[np.floating], largest: float | None = None) -> Image.Image:
    """A spread (H, W) as a picture: 0 is black, the largest, or the one given, is bright."""
    from matplotlib import colormaps

    top = float(spread.max()) if largest is None else largest
    shade = np.clip(spread / top, 0.0, 1.0) if top > 0 else np.zeros(spread.shape)
    return Image.fromarray(np.round(colormaps["inferno"](shade)[..., :3] * 255).astype(np.uint8))
