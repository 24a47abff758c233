"""What an image codec is, and the simplest one: the pixels themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import LatentSpec, Progress
from bridgeflow.settings import Settings


class Codec(nn.Module, ABC):
    """Pixels (B, 3, H, W) in [-1, 1] to a latent and back: a grid (B, channels, H / multiple, W / multiple), unless
    `spec` says otherwise."""

    channels: int
    """Channels of the latent."""
    multiple: int
    """Pixels along each side that one position of the latent stands for."""
    sizes: tuple[int, int]
    """Height and width of the pictures, which the modality sets."""
    round_trip: float
    """Greatest root mean square difference between a latent and itself, decoded to levels and encoded again."""

    most_pictures: int = 4096
    """Most pictures that fitting looks at."""

    def spec(self, height: int, width: int) -> LatentSpec:
        """Shape and layout of the latent of a picture of that size."""
        return LatentSpec((self.channels, height // self.multiple, width // self.multiple), "grid")

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and, from a codec that samples, standard deviation of the latent."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), about in [-1, 1], of a latent."""

    @property
    def needs_fit(self) -> bool:
        """True while the codec has to be fitted before it can encode."""
        return False

    def fit(self, levels: Tensor, progress: Progress | None = None) -> dict[str, float]:
        """Fits the codec to pictures, uint8 (N, 3, H, W); returns its own figures."""
        raise BridgeflowError("this image codec has nothing to fit: train without fitting it.")

    def fitted_state(self) -> dict[str, Tensor]:
        """Tensors that fitting made."""
        return {}

    def fitted_facts(self) -> dict[str, Any]:
        """JSON values that fitting made."""
        return {}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes back what `fitted_state` and `fitted_facts` gave."""
        if state or facts:
            raise BridgeflowError("this image codec has no fitted state to restore: choose the codec that was fitted.")

    def weights_digest(self) -> str:
        """A digest of pretrained weights, which `fitted_state` leaves out; empty where there are none."""
        return ""

    def unload(self) -> None:
        """Drops pretrained weights until they are next needed; nothing where there are none."""


class FittedCodec(Codec):
    """A codec whose weights are all fitted to the data: kept as they are, and restored by the same settings."""

    name: str
    """As the settings have it."""
    fitted = False

    @property
    def needs_fit(self) -> bool:
        """True until `fit` or `restore`."""
        return not self.fitted

    def fitted_state(self) -> dict[str, Tensor]:
        """Weights, and mean and variance of the latent; empty before fitting."""
        return self._state() if self.fitted else {}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes the state of another codec with the same settings."""
        own = self._state()
        if {name: t.shape for name, t in state.items()} != {name: t.shape for name, t in own.items()}:
            raise BridgeflowError(
                "the autoencoder to restore has other layers than the settings say: use those it had then."
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.fitted = True

    def _state(self) -> dict[str, Tensor]:
        return {name: t for name, t in self.state_dict().items() if not name.endswith("num_batches_tracked")}

    def _require_fit(self) -> None:
        if not self.fitted:
            raise BridgeflowError(
                f"the codec {self.name!r} has not been fitted to data yet: call fit or restore first."
            )


class PixelsSettings(Settings):
    """No codec: the latent is the picture, (3, H, W) in [-1, 1]."""

    name: Literal["pixels"] = "pixels"

    def build(self) -> PixelsCodec:
        """The codec."""
        return PixelsCodec()


class PixelsCodec(Codec):
    """The latent is the picture."""

    channels = 3
    multiple = 1
    round_trip = 0.004

    def encode(self, pixels: Tensor) -> tuple[Tensor, None]:
        """The pixels, with no standard deviation."""
        return pixels, None

    def decode(self, latent: Tensor) -> Tensor:
        """The latent, which is the pixels."""
        return latent


def pixels_of_levels(levels: Tensor) -> Tensor:
    """float32 pixels in [-1, 1] of levels from 0 to 255."""
    return levels.to(torch.float32).div_(127.5).sub_(1.0)


def psnr(pixels: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1], so with a peak of 2; at most 100 dB."""
    error = (pixels.clamp(-1, 1) - truth).double().square().mean().clamp_min(4e-10)
    return float(10 * torch.log10(4 / error))
