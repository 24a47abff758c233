"""Principal components of image patches as a latent: fitted in a second, and hard to beat at small sizes."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress
from bridgeflow.settings import Settings
from bridgeflow_plugins.image_latent.codecs import Codec, pixels_of_levels

PATCHES_PER_PICTURE = 256
"""Patches of a picture that fitting looks at, drawn at random where it has more."""

STD_FLOOR = 1e-3
"""Least standard deviation that whitening divides by, in units of pixels in [-1, 1]: an eighth of a level.

A direction in which the pictures do not vary keeps a latent near zero instead of amplified rounding.
"""


class PCASettings(Settings):
    """Principal components of non-overlapping patches; latent (components, H / patch, W / patch)."""

    name: Literal["pca"] = "pca"
    patch: int = Field(4, ge=1, le=64)
    """Side of a patch in pixels; both sides of the picture are multiples of it."""
    components: int = Field(12, ge=1)
    """Components kept; patch * patch * 3 of them lose nothing."""
    whitening: float = Field(0.5, ge=0, le=1)
    """A component is divided by its standard deviation to this power: 0 keeps the spectrum, 1 flattens it."""

    @model_validator(mode="after")
    def _components_exist(self) -> Self:
        most = self.patch * self.patch * 3
        if self.components > most:
            raise ValueError(f"a patch of {self.patch}x{self.patch} has {most} components: ask for at most {most}")
        return self

    def build(self) -> PCACodec:
        """The codec, to be fitted."""
        return PCACodec(self)


class PCACodec(Codec):
    """Linear codec z_i = s * e_i . (x - m) / std_i^w for patches x with mean m and principal axes e_i.

    `s` makes the variance of the latent over the fitting data, taken over all components, 1.
    """

    round_trip = 0.1
    mean: Tensor
    axes: Tensor
    gain: Tensor

    def __init__(self, settings: PCASettings) -> None:
        super().__init__()
        self.channels = settings.components
        self.multiple = settings.patch
        self.whitening = settings.whitening
        values = settings.patch * settings.patch * 3
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("axes", torch.zeros(settings.components, values))
        self.register_buffer("gain", torch.ones(settings.components))
        self._fitted = False

    @property
    def needs_fit(self) -> bool:
        """True until `fit` or `restore`."""
        return not self._fitted

    def encode(self, pixels: Tensor) -> tuple[Tensor, None]:
        """Projections (B, components, H / patch, W / patch) of the patches."""
        self._require_fit()
        # Centred before the product: a mean taken off later would cost digits that whitening amplifies.
        patches = F.pixel_unshuffle(pixels, self.multiple) - self.mean[:, None, None]
        return torch.einsum("kd,bdhw->bkhw", self.axes * self.gain[:, None], patches), None

    def decode(self, latent: Tensor) -> Tensor:
        """Patches put together again, (B, 3, H, W)."""
        self._require_fit()
        patches = torch.einsum("kd,bkhw->bdhw", self.axes / self.gain[:, None], latent)
        return F.pixel_shuffle(patches + self.mean[:, None, None], self.multiple)

    def fit(self, levels: Tensor, progress: Progress | None = None) -> dict[str, float]:
        """Fits mean and axes to the patches of pictures, uint8 (N, 3, H, W), in double precision.

        Returns `explained_variance`, the share of the patches' variance that the components carry.
        """
        generator = torch.Generator().manual_seed(0)
        values = self.mean.numel()
        total = torch.zeros(values, dtype=torch.float64)
        products = torch.zeros(values, values, dtype=torch.float64)
        count = 0
        for start in range(0, len(levels), 64):
            patches = self._patches(pixels_of_levels(levels[start : start + 64]), generator)
            total += patches.sum(0)
            products += patches.T @ patches
            count += len(patches)
            if progress is not None:
                progress(min(start + 64, len(levels)), len(levels), "fitting principal components")
        mean = total / count
        variances, axes = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        variances, axes = variances.flip(0).clamp_min(0), axes.flip(1).T
        kept = variances[: self.channels]
        gain = kept.sqrt().clamp_min(STD_FLOOR) ** -self.whitening
        # Pictures of one single colour have no variance that could be brought to 1.
        if kept[0] > STD_FLOOR**2:
            gain /= (gain.square() * kept).mean().sqrt()
        # An axis is known up to its sign only: fixed here, so that fitting again gives the same latent.
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        self._set(mean, (axes * largest.sign())[: self.channels], gain)
        return {"explained_variance": float(kept.sum() / variances.sum().clamp_min(1e-12))}

    def fitted_state(self) -> dict[str, Tensor]:
        """Mean, axes and gain; empty before fitting."""
        return {"mean": self.mean, "axes": self.axes, "gain": self.gain} if self._fitted else {}

    def restore(self, state: dict[str, Tensor], facts: dict[str, object]) -> None:
        """Takes the state of another codec with the same settings."""
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        wanted = {name: tuple(getattr(self, name).shape) for name in ("mean", "axes", "gain")}
        if shapes != wanted:
            raise BridgeflowError(
                f"the principal components to restore have shapes {shapes} where {wanted} were expected: "
                "use the patch and components they were fitted with."
            )
        self._set(state["mean"], state["axes"], state["gain"])

    def _set(self, mean: Tensor, axes: Tensor, gain: Tensor) -> None:
        self.mean.copy_(mean)
        self.axes.copy_(axes)
        self.gain.copy_(gain)
        self._fitted = True

    def _patches(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """float64 (n, 3 * patch * patch): some patches of every picture of the batch."""
        grid = F.pixel_unshuffle(pixels.double(), self.multiple).flatten(2)
        if grid.shape[2] > PATCHES_PER_PICTURE:
            chosen = torch.rand(len(grid), grid.shape[2], generator=generator).topk(PATCHES_PER_PICTURE).indices
            grid = grid.gather(2, chosen[:, None, :].expand(-1, grid.shape[1], -1))
        return grid.transpose(1, 2).flatten(0, 1)

    def _require_fit(self) -> None:
        if not self._fitted:
            raise BridgeflowError("the codec 'pca' has not been fitted to data yet: call fit or restore first.")
