"""Metrics of pictures against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from bridgeflow_plugins.image_latent.distances import FEATURES, distances, features
from bridgeflow_plugins.image_latent.metrics import luma, psnr, psnr_y, ssim, ssim_y


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A photograph, and the same blurred."""
    truth = np.ascontiguousarray(data.astronaut()[100:196, 180:292])
    small = Image.fromarray(truth).resize((56, 48), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((112, 96), Image.Resampling.BICUBIC)), truth


def by_hand(result: np.ndarray, truth: np.ndarray) -> float:
    """Equation 13 of Wang et al. 2004 in windows of 11 pixels that lie within the picture."""
    x = np.arange(-5, 6)
    weights = np.exp(-(x**2) / (2 * 1.5**2))
    weights /= weights.sum()

    def smooth(values: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            values = np.apply_along_axis(np.convolve, axis, values, weights, "valid")
        return values

    a, b = result.astype(float), truth.astype(float)
    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    both = smooth(a * b) - mean_a * mean_b
    small, smaller = (0.03 * 255) ** 2, (0.01 * 255) ** 2
    above = (2 * mean_a * mean_b + smaller) * (2 * both + small)
    return float(np.mean(above / ((mean_a**2 + mean_b**2 + smaller) * (var_a + var_b + small))))


def test_psnr_and_ssim_are_those_of_their_formulas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    result, truth = pair
    assert psnr(result, truth) == pytest.approx(peak_signal_noise_ratio(truth, result), abs=1e-9)
    each = [by_hand(result[..., channel], truth[..., channel]) for channel in range(3)]
    assert ssim(result, truth) == pytest.approx(float(np.mean(each)), abs=1e-9)
    a, b = luma(truth), luma(result)
    assert ssim_y(result, truth) == pytest.approx(by_hand(b, a), abs=1e-9)
    assert psnr_y(result, truth) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
    np.testing.assert_allclose(a, rgb2ycbcr(truth)[..., 0], atol=1e-6)


def test_pictures_that_agree_are_as_near_as_can_be(pair: tuple[np.ndarray, np.ndarray]) -> None:
    _, truth = pair
    assert (psnr(truth, truth), psnr_y(truth, truth)) == (100.0, 100.0)
    assert ssim(truth, truth) == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(ValueError, match="11 pixels a side"):
        ssim(truth[:8, :8], truth[:8, :8])


def cuts(seed: int, count: int, blurred: bool = False) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        top, left = draw.integers(0, 400, 2)
        cut = Image.fromarray(data.astronaut()[top : top + 64, left : left + 64])
        if blurred:
            cut = cut.resize((16, 16)).resize((64, 64), Image.Resampling.BICUBIC)
        found.append(np.asarray(cut))
    return found


def test_the_distances_are_those_of_their_formulas() -> None:
    real, own = cuts(0, 40), cuts(1, 40, blurred=True)
    figures, notes = distances(own, real)
    assert list(figures) == ["kd_efflite0"]
    assert notes == ["a Frechet distance of 40 examples says more of their number: raise --count to 256."]
    x, y = (features(pictures).double() for pictures in (real, own))
    assert x.shape == (40, FEATURES)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / FEATURES + 1) ** 3

    n = len(x)
    within = sum(float((kernel(a, a).sum() - kernel(a, a).trace()) / (n * (n - 1))) for a in (x, y))
    expected = 1000 * (within - 2 * float(kernel(x, y).mean()))
    assert figures["kd_efflite0"] == pytest.approx(expected, rel=1e-3)
    near, _ = distances(cuts(2, 40), real)
    assert near["kd_efflite0"] < figures["kd_efflite0"] / 3


def test_the_frechet_distance_is_that_of_its_formula() -> None:
    real, own = cuts(0, 256), cuts(1, 256, blurred=True)
    figures, notes = distances(own, real)
    assert notes == []
    x, y = (features(pictures).double().numpy() for pictures in (real, own))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # tr sqrt(A B) of covariances of rank n - 1, by the singular values of the centred features.
    product = (x - x.mean(0)) @ (y - y.mean(0)).T / (len(x) - 1)
    root = scipy.linalg.svdvals(product).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
    assert figures["fd_efflite0"] == pytest.approx(expected, rel=2e-2)
