"""How far sets of pictures are from one another, on the features of a named network.

FD-EffLite0 and KD-EffLite0 are the Frechet distance (Heusel et al., arXiv 1706.08500) and the kernel distance
(Binkowski et al., arXiv 1801.01401) on the pooled features of EfficientNet-Lite0, whose weights a package carries. They
compare with one another only, and never with FID or KID, which are those of Inception.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError
from bridgeflow.nn.features import efficientnet_lite0

Pixels = npt.NDArray[np.uint8]
Kernel = npt.NDArray[np.float64]
FEWEST = 256
"""Pictures below which a Frechet distance says more of their number than of them."""
FEWEST_PAIRS = 20
"""The same for a kernel distance."""
SIDE = 224
FEATURES = 1280
BATCH = 32


class EffLite0(nn.Module):
    """Pooled features (B, 1280) of EfficientNet-Lite0 from uint8 pictures (B, 3, H, W), brought to 224 pixels."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.network = efficientnet_lite0()
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to (B, 1280)."""
        pixels = F.interpolate(pictures.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        found: Tensor = self.network(pixels / 127.5 - 1)
        return found


@lru_cache(maxsize=1)
def _extractor() -> EffLite0:
    return EffLite0()


@torch.no_grad()
def features(pictures: Sequence[Pixels]) -> Tensor:
    """(N, 1280) of uint8 pictures (H, W, 3). Raises BridgeflowError where the weights are not installed."""
    network = _extractor()
    found = []
    for start in range(0, len(pictures), BATCH):
        chunk = pictures[start : start + BATCH]
        tensors = [torch.from_numpy(np.array(own)).permute(2, 0, 1) for own in chunk]
        if len({tensor.shape for tensor in tensors}) == 1:
            found.append(network(torch.stack(tensors)))
        else:
            found += [network(tensor[None]) for tensor in tensors]
    return torch.cat(found) if found else torch.zeros(0, FEATURES)


class Distances:
    """The distances between results and truths, as many of both; features are found once, for any choice of examples.

    once: `fd_efflite0` of all examples, by torchmetrics, from FEWEST examples on. notes: a sentence on what is left out
    and on what the Frechet distance owes to the number of pictures.
    """

    def __init__(self, results: Sequence[Pixels], truths: Sequence[Pixels]) -> None:
        if len(results) != len(truths):
            raise ValueError(f"distances need as many results as truths, not {len(results)} and {len(truths)}")
        self.once: dict[str, float] = {}
        self.notes: list[str] = []
        self._kernels: tuple[Kernel, Kernel] | None = None
        count = len(results)
        if count < FEWEST_PAIRS:
            self.notes.append(
                f"distances of {count} examples say more of their number: raise --count to {FEWEST_PAIRS}, and to "
                f"{FEWEST} for the Frechet distance."
            )
            return
        try:
            own, real = features(results), features(truths)
        except BridgeflowError as error:
            self.notes.append(str(error))
            return
        if count >= FEWEST:
            self.once["fd_efflite0"] = _frechet(real, own)
            # Every other one, since neighbours in data are often alike.
            floor = _frechet(real[::2], real[1::2])
            self.notes.append(
                f"fd_efflite0 is biased upwards by the number of pictures: the two halves of the {count} true ones are "
                f"{floor:.3g} apart."
            )
        else:
            self.notes.append(
                f"a Frechet distance of {count} examples says more of their number: raise --count to {FEWEST}."
            )
        within = _kernel(own, own) + _kernel(real, real)
        # A picture is no pair with itself.
        np.fill_diagonal(within, 0.0)
        self._kernels = within, _kernel(own, real)

    def figures(self, chosen: Sequence[int]) -> dict[str, float]:
        """`kd_efflite0` of the examples of some numbers, each at most once: 1000 times the unbiased estimate over all
        their pairs (Binkowski et al., equation 4), which may fall a little below 0. Nothing for less than two."""
        if self._kernels is None or len(chosen) < 2:
            return {}
        within, between = self._kernels
        count = len(chosen)
        counted = np.zeros(len(within))
        counted[list(chosen)] = 1.0
        # Two matrix-vector products in place of parts cut out of the matrices, which would have to be copied.
        same, other = (float(counted @ matrix @ counted) for matrix in (within, between))
        return {"kd_efflite0": 1000 * (same / (count * (count - 1)) - 2 * other / count**2)}


def _kernel(a: Tensor, b: Tensor) -> Kernel:
    """(N, M) of features (N, D) and (M, D): the cubic kernel of Binkowski et al.; in double precision, since its sums
    all but cancel."""
    found: Kernel = ((a.double() @ b.double().T / a.shape[1] + 1) ** 3).numpy()
    return found


def _frechet(real: Tensor, own: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric: Any = FrechetInceptionDistance(feature=_AsTheyAre(), normalize=False)
    metric.update(real, real=True)
    metric.update(own, real=False)
    return float(metric.compute())


class _AsTheyAre(nn.Module):
    """Hands features on that were found before."""

    num_features = FEATURES

    def forward(self, found: Tensor) -> Tensor:
        """(B, 1280) to the same."""
        return found.flatten(1)
