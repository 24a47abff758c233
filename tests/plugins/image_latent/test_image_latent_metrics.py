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
from torchmetrics.image.kid import KernelInceptionDistance

from bridgeflow.evaluation.intervals import score
from bridgeflow_plugins.image_latent import distances as module
from bridgeflow_plugins.image_latent.distances import FEATURES, FEWEST_PAIRS, Distances, features
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


class AsTheyAre(torch.nn.Module):
    """Features in place of a network that finds them."""

    num_features = FEATURES

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        return found


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


def kernel_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """1000 times equation 4 of Binkowski et al. (arXiv 1801.01401), each pair by itself."""
    a, b = x.double().numpy(), y.double().numpy()
    n, features = a.shape

    def kernel(u: np.ndarray, v: np.ndarray) -> float:
        return float((u @ v / features + 1) ** 3)

    within = sum(kernel(own[i], own[j]) for own in (a, b) for i in range(n) for j in range(n) if i != j)
    between = sum(kernel(u, v) for u in a for v in b)
    return 1000 * (within / (n * (n - 1)) - 2 * between / n**2)


def distances(results: list[np.ndarray], truths: list[np.ndarray]) -> tuple[dict[str, float], list[str]]:
    """The distances of all examples, and the notes."""
    found = Distances(results, truths)
    return {**found.once, **found.figures(range(len(results)))}, found.notes


def frechet_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Equation 6 of Heusel et al. (arXiv 1706.08500)."""
    a, b = x.double().numpy(), y.double().numpy()
    # tr sqrt(A B) of covariances of rank n - 1, by the singular values of the centred features.
    product = (a - a.mean(0)) @ (b - b.mean(0)).T / (len(a) - 1)
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * scipy.linalg.svdvals(product).sum())


@pytest.fixture
def found_features(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (256, 1280) of results and of truths that lie near one another; a picture stands for its own."""
    monkeypatch.setattr(module, "features", lambda pictures: torch.from_numpy(np.stack(pictures)))
    draw = torch.Generator().manual_seed(0)
    truths = torch.randn(256, FEATURES, generator=draw)
    return 1.02 * torch.randn(256, FEATURES, generator=draw) + 0.05, truths


def test_the_kernel_distance_of_pictures_is_that_of_its_formula() -> None:
    real, own = cuts(0, 20), cuts(1, 20, blurred=True)
    figures, notes = distances(own, real)
    assert list(figures) == ["kd_efflite0"]
    assert notes == ["a Frechet distance of 20 examples says more of their number: raise --count to 256."]
    x, y = features(real), features(own)
    assert x.shape == (20, FEATURES)
    assert figures["kd_efflite0"] == pytest.approx(kernel_distance(x, y), rel=1e-6)
    near, _ = distances(cuts(2, 20), real)
    assert near["kd_efflite0"] < figures["kd_efflite0"] / 3


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_the_kernel_distance_counts_every_pair(found_features: tuple[torch.Tensor, torch.Tensor]) -> None:
    own, real = (found[:150] for found in found_features)
    found = Distances(list(own.numpy()), list(real.numpy()))
    # The mean over fifty subsets of 100 at random is 6 % larger here.
    expected = kernel_distance(real, own)
    assert found.figures(range(150))["kd_efflite0"] == pytest.approx(expected, rel=1e-9)
    metric = KernelInceptionDistance(feature=AsTheyAre(), subsets=1, subset_size=150)
    metric.update(real, real=True)
    metric.update(own, real=False)
    assert 1000 * float(metric.compute()[0]) == pytest.approx(expected, rel=1e-2)
    again, _ = distances(list(own.numpy()), list(real.numpy()))
    assert again == found.figures(range(150))


def test_the_kernel_distance_of_some_has_an_interval(found_features: tuple[torch.Tensor, torch.Tensor]) -> None:
    own, real = (found[:60] for found in found_features)
    found = Distances(list(own.numpy()), list(real.numpy()))
    chosen = [3, 50, 7, 22, 41]
    expected = kernel_distance(real[chosen], own[chosen])
    assert found.figures(chosen)["kd_efflite0"] == pytest.approx(expected, rel=1e-9)
    assert found.figures([3]) == {}
    low, high = score(found.figures, 60).interval("kd_efflite0")
    assert low < found.figures(range(60))["kd_efflite0"] < high
    # Another sixty of the same kind lie about as far.
    others = kernel_distance(*(part[60:120] for part in reversed(found_features)))
    assert abs(others - (low + high) / 2) < 2 * (high - low)


def test_the_frechet_distance_tells_its_own_floor(found_features: tuple[torch.Tensor, torch.Tensor]) -> None:
    own, real = found_features
    figures, notes = distances(list(own.numpy()), list(real.numpy()))
    assert figures["fd_efflite0"] == pytest.approx(frechet_distance(real, own), rel=1e-5)
    floor = frechet_distance(real[::2], real[1::2])
    assert floor > figures["fd_efflite0"] / 2
    assert notes == [
        f"fd_efflite0 is biased upwards by the number of pictures: the two halves of the 256 true ones are {floor:.3g} "
        "apart."
    ]
    few, notes = distances(list(own[1:].numpy()), list(real[1:].numpy()))
    assert list(few) == ["kd_efflite0"]
    assert notes == ["a Frechet distance of 255 examples says more of their number: raise --count to 256."]


def test_distances_need_more_than_a_few_pictures() -> None:
    figures, notes = distances(cuts(0, FEWEST_PAIRS - 1), cuts(1, FEWEST_PAIRS - 1))
    assert figures == {}
    assert notes == [
        "distances of 19 examples say more of their number: raise --count to 20, and to 256 for the Frechet distance."
    ]
    with pytest.raises(ValueError, match="as many results as truths, not 1 and 2"):
        distances(cuts(0, 1), cuts(1, 2))
