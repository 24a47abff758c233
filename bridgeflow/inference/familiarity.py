"""How far an input is from those that a model was trained on, by a few numbers of its source latent.

A Gaussian is fitted to the numbers of the training inputs; an input is out of distribution (OOD) where its Mahalanobis
distance is far beyond those of inputs that were held out (Lee et al., arXiv 1807.03888, use the same distance inside a
network), or where one of its numbers lies far outside of all that were seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.modality import Latent, LatentSpec

NAME = "familiar.safetensors"
CELLS = 4
"""Parts along each axis of a grid that are looked at apart."""
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
BANDS = 8
MOST_NUMBERS = 512
"""Sequences with more features than this are not judged."""
SHRINKAGE = 0.02
"""Weight of the plain variances in the covariance, so that it can be inverted."""
LIMIT_QUANTILE = 0.999
MARGIN = 1.2
SLACK = 0.5
"""Of the range that was seen, and in units beside it: how far outside of it a number may lie."""
"""An input is out of distribution beyond the LIMIT_QUANTILE of the held-out distances, times MARGIN."""
FEWEST = 64
TENSORS = ("centre", "low", "high", "whitening")


def can_judge(latent: LatentSpec) -> bool:
    """Whether latents of this shape are judged: grids of two axes, and sequences of few features."""
    if latent.layout == "sequence":
        return latent.shape[1] <= MOST_NUMBERS
    return len(latent.shape) == 3 and min(latent.shape[1:]) >= 2 * CELLS and latent.shape[0] <= 16


def numbers(latent: Latent, layout: str) -> Tensor:
    """(B, n) float64. Of a grid: the mean of each channel in CELLS x CELLS parts, and the logarithm of how much
    neighbours differ, there, in QUANTILES of all cells, and for most neighbours in BANDS of rows, at two scales. Of a
    sequence: the mean over its real positions."""
    mean = latent.mean.double()
    if layout == "sequence":
        if latent.mask is None:
            return mean.mean(1)
        weight = latent.mask.double()[..., None]
        return (mean * weight).sum(1) / weight.sum(1).clamp_min(1)
    found = [F.adaptive_avg_pool2d(mean, CELLS).flatten(1)]
    for scale in (1, 2):
        coarse = F.avg_pool2d(mean, scale) if scale > 1 else mean
        down = (coarse[:, :, 1:, :-1] - coarse[:, :, :-1, :-1]).abs()
        across = (coarse[:, :, :-1, 1:] - coarse[:, :, :-1, :-1]).abs()
        rough = (down + across).mean(1, keepdim=True)
        spread = torch.quantile(rough.flatten(1), mean.new_tensor(QUANTILES), dim=1).T
        bands = torch.stack([band.flatten(1).median(1).values for band in across.mean(1).chunk(BANDS, 1)], 1)
        found.append((bands + 1e-3).log())
        found += [(F.adaptive_avg_pool2d(rough, CELLS) + 1e-3).log().flatten(1), (spread + 1e-3).log()]
    return torch.cat(found, 1)


@dataclass(frozen=True)
class Familiarity:
    """What inputs of a model look like. centre, low, high: (n,), mean and range of the numbers. whitening: (n, n),
    brings them to unit covariance. limit: the distance from which on an input is out of distribution."""

    layout: str
    centre: Tensor
    low: Tensor
    high: Tensor
    whitening: Tensor
    limit: float

    @classmethod
    def fitted(cls, layout: str, training: Iterable[Tensor], held_out: Iterable[Tensor]) -> Familiarity | None:
        """From the `numbers` of inputs, in batches; None where there are too few."""
        own, others = torch.cat([*training]), torch.cat([*held_out])
        if min(len(own) / 8, len(others)) < FEWEST / 8 or len(own) < FEWEST:
            return None
        centre = own.mean(0)
        covariance = torch.cov((own - centre).T)
        spread = covariance.diagonal().clamp_min(1e-8)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * torch.diag(spread + spread.mean())
        whitening = torch.linalg.inv(torch.linalg.cholesky(shrunk))
        low, high = torch.cat([own, others]).aminmax(dim=0)
        fitted = cls(layout, centre, low, high, whitening, 0.0)
        limit = float(torch.quantile(fitted._distances(others), LIMIT_QUANTILE)) * MARGIN
        return replace(fitted, limit=limit)

    def is_ood(self, latent: Latent) -> Tensor:
        """(B,) bool: inputs that are far from what the model knows."""
        found = numbers(latent.to("cpu"), self.layout)
        if found.shape[1] != len(self.centre):
            return torch.zeros(len(found), dtype=torch.bool)
        slack = SLACK * (1 + self.high - self.low)
        outside = ((found < self.low - slack) | (found > self.high + slack)).any(1)
        return outside | (self._distances(found) > self.limit)

    def _distances(self, found: Tensor) -> Tensor:
        return ((found - self.centre) @ self.whitening.T).square().mean(1).sqrt()

    def save(self, folder: Path) -> None:
        """Writes NAME into a folder. Raises OSError or SafetensorError."""
        tensors = {name: getattr(self, name).float().contiguous() for name in TENSORS}
        save_file(tensors, folder / NAME, {"facts": json.dumps({"layout": self.layout, "limit": self.limit})})

    @classmethod
    def read(cls, folder: Path) -> Familiarity | None:
        """What `save` wrote, or None where there is nothing that can be read: results do not depend on it."""
        try:
            with safe_open(folder / NAME, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name).double() for name in TENSORS}
            known = cls(layout=str(facts["layout"]), limit=float(facts["limit"]), **tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        count = known.centre.numel()
        shapes = {name: tuple(getattr(known, name).shape) for name in TENSORS}
        wanted = {name: (count, count) if name == "whitening" else (count,) for name in TENSORS}
        return known if shapes == wanted else None
