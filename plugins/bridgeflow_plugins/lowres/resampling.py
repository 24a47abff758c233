"""Bicubic resampling by a whole factor, in the convention of PIL and of torch's `antialias=True`.

The kernel is the cubic of Keys (1981) with a = -0.5, pixel i has its centre at i + 0.5, and the kernel is
widened by the factor where a picture shrinks. MATLAB's `imresize`, the reference of super-resolution
benchmarks, does the same away from the borders; torch without `antialias` has a = -0.75 and aliases.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.image_latent.pixels import Pixels


def degrade(image: Pixels, factor: int) -> Pixels:
    """The picture `factor` times smaller, uint8 (H // factor, W // factor, 3).

    What exceeds a multiple of the factor is cut off at the lower and right edge first.
    """
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if height == 0 or width == 0:
        raise BridgeflowError(
            f"a picture of {image.shape[0]}x{image.shape[1]} pixels cannot be made {factor} times smaller: "
            f"give one of at least {factor}x{factor}."
        )
    # Cut first: PIL's `box` would let the kernel see what lies beyond it.
    whole = Image.fromarray(image[: height * factor, : width * factor])
    return np.asarray(whole.resize((width, height), Image.Resampling.BICUBIC))


def enlarge(pixels: Tensor, factor: int) -> Tensor:
    """Pixels (B, 3, h, w) in [-1, 1] enlarged to (B, 3, h * factor, w * factor), clipped to [-1, 1]."""
    size = (pixels.shape[2] * factor, pixels.shape[3] * factor)
    return F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp_(-1, 1)
