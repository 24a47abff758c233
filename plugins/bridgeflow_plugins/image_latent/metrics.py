"""How near two pictures are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def psnr(result: Pixels, truth: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures (H, W, 3): 10 log10(255^2 / MSE) over RGB.

    Pictures that agree everywhere give 100.
    """
    return _decibels(result.astype(np.float64), truth.astype(np.float64))


def psnr_y(result: Pixels, truth: Pixels) -> float:
    """The same over the luma of `luma`, as super-resolution usually counts it."""
    return _decibels(luma(result), luma(truth))


def ssim(result: Pixels, truth: Pixels) -> float:
    """Structural similarity of two uint8 pictures (H, W, 3), the mean over RGB (Wang et al. 2004): Gaussian windows of
    11 pixels and standard deviation 1.5, values from 0 to 255, as far as whole windows reach. At most 1.

    Raises ValueError for pictures of less than 11 pixels a side.
    """
    return _similarity(result.astype(np.float64), truth.astype(np.float64))


def ssim_y(result: Pixels, truth: Pixels) -> float:
    """The same over the luma of `luma`."""
    return _similarity(luma(result)[..., None], luma(truth)[..., None])


def luma(picture: Pixels) -> npt.NDArray[np.float64]:
    """(H, W), 16 to 235: Y of ITU-R BT.601, as MATLAB's rgb2ycbcr gives it before it rounds."""
    weights = np.array([65.481, 128.553, 24.966])
    return np.asarray(16.0 + picture.astype(np.float64) @ weights / 255.0)


def _decibels(result: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    error = float(np.mean((result - truth) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * float(np.log10(255.0**2 / error)))


def _similarity(result: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    from skimage.metrics import structural_similarity

    if min(result.shape[:2]) < 11:
        raise ValueError(f"structural similarity needs 11 pixels a side, not {result.shape[:2]}")
    return float(
        structural_similarity(
            truth,
            result,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
