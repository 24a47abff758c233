"""How near two pictures are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def psnr(result: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures (H, W, 3): 10 log10(255^2 / MSE) over RGB.

    Pictures that agree everywhere give 100.
    """
    error = float(np.mean((result.astype(np.float64) - truth.astype(np.float64)) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * float(np.log10(255.0**2 / error)))
