"""Depth from one picture: the flow starts from the picture itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Modality
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task, Thorough
from bridgeflow_plugins.depth import Depth
from bridgeflow_plugins.depth.geometry import check_aligned, resize_depth, resize_map
from bridgeflow_plugins.depth.metrics import Crop, align, align_disparity, crop_mask, depth_metrics
from bridgeflow_tasks.scenes import made_up_scene


class DepthOptions(Settings):
    """How depth is scored."""

    alignment: Literal["auto", "metric", "scale_and_shift", "disparity"] = "auto"
    """`metric` scores metres as they are. `scale_and_shift` first brings each map to the truth by the scale and shift
    of least squares, as relative depth is scored (Marigold); `disparity` fits 1 / depth so (MiDaS). `auto` is metric
    where the normalisation keeps metres, else scale_and_shift."""
    nearest: float = Field(default=1e-3, gt=0)
    """Metres. Nearer truths do not count, and nearer predictions count as this."""
    farthest: float | None = Field(default=None, gt=0)
    """Metres. Farther truths do not count, and farther predictions count as this: 80 for KITTI and 10 for NYU, as
    usual there; null counts all."""
    crop: Crop = "none"
    """Part of a map that counts: `garg` or `eigen` of KITTI, `nyu` of NYU."""

    @model_validator(mode="after")
    def _near_to_far(self) -> DepthOptions:
        if self.farthest is not None and self.farthest <= self.nearest:
            raise ValueError(f"farthest is beyond nearest, but {self.farthest} m is not beyond {self.nearest} m")
        return self


class DepthEstimation(Task):
    """A picture becomes a depth map of its own size."""

    summary = "a depth map from a picture"
    source = ModalityUse("image_latent", {"resize": "stretch"})
    target = ModalityUse("depth", {"resize": "stretch"})
    columns = {"image": "a picture", "depth": "its depth map: 16-bit PNG, .npy, .pfm or EXR"}
    better = {
        "foreground_abs_rel": "lower",
        "abs_rel": "lower",
        "rmse": "lower",
        "silog": "lower",
        "delta1": "higher",
        "delta_1.05": "higher",
    }
    default_recipe = "depth/blocks"
    default_model = "depth/blocks-full"
    Options = DepthOptions
    options: DepthOptions

    def __init__(self, options: DepthOptions, source: Modality, target: Modality) -> None:
        super().__init__(options, source, target)
        for side, modality in (("source", source), ("target", target)):
            if getattr(modality.options, "resize", "stretch") != "stretch":
                raise UsageError(
                    f"{side}.resize must be stretch: a depth map covers the whole picture, and a cut one would not."
                )

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(picture, depth map), of one aspect ratio, with pixels that count at the model's size."""
        image, depth = self.held_out_pair(row, rng)
        if isinstance(self.to_modality, Depth):
            self.to_modality.check_valid(depth, _name(row))
        return image, depth

    def held_out_pair(self, row: Mapping[str, Any], rng: np.random.Generator, whole: bool = False) -> tuple[Item, Item]:
        """(picture, depth map), of one aspect ratio; depth is scored at its own size, however sparse it is."""
        image, depth = self.from_modality.read(row["image"]), self.to_modality.read(row["depth"])
        check_aligned(image.shape[:2], depth.shape, _name(row))
        if not np.isfinite(depth).any():
            raise BridgeflowError(f"{_name(row)} holds no measurement, a number above 0: leave the row out.")
        return image, depth

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        """A scene of the blocks world: `image` uint8 (64, 64, 3), `depth` float32 (64, 64) in metres, and `objects`."""
        scene = made_up_scene(rng)
        return {"image": scene["image"], "depth": scene["depth"], "objects": scene["objects"]}

    def join(self, results: Sequence[Item], item: Item) -> Item:
        """The map brought to the picture's size."""
        return resize_depth(results[0], item.shape[:2])

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        """The field's depth metrics, and on data with object masks those of the foreground."""
        each: dict[str, list[float]] = {}
        for result, truth, row in zip(results, truths, rows, strict=True):
            counted = self._counted(truth)
            fitted = self._fitted(resize_depth(result, truth.shape), truth, counted)
            scopes: dict[str, Any] = {"foreground_": np.asarray(row["objects"]) > 0} if "objects" in row else {}
            for scope, mask in {**scopes, "": True}.items():
                for name, value in depth_metrics(fitted, truth, counted & mask).items():
                    each.setdefault(scope + name, []).append(value)
        return {name: _mean(values) for name, values in each.items()}

    def thorough(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> Thorough | None:
        """What the figures were computed on, as notes."""
        options = self.options
        ways = {
            "metric": "metres are scored as they are",
            "scale_and_shift": "each map was brought to its truth by scale and shift",
            "disparity": "the disparity of each map was brought to its truth's by scale and shift",
        }
        bounds = f"truths from {options.nearest:g} m"
        bounds += f" to {options.farthest:g} m count" if options.farthest is not None else " on count"
        inside = "" if options.crop == "none" else f", inside the crop {options.crop!r}"
        return Thorough(lambda chosen: {}, notes=[f"{ways[self._alignment]}; {bounds}{inside}."])

    @property
    def _alignment(self) -> str:
        keeps_metres = bool(self.to_modality.options.normalisation.metric)  # type: ignore[attr-defined]
        by_itself = "metric" if keeps_metres else "scale_and_shift"
        return by_itself if self.options.alignment == "auto" else self.options.alignment

    def errors(self, result: Item, spread: NDArray[Any], truth: Item) -> tuple[NDArray[Any], NDArray[Any]]:
        """See `Task.errors`: |result - truth| in metres, after the alignment, where the truth counts; the spread is
        brought along, by how much the alignment stretches depth at each pixel."""
        counted = self._counted(truth)
        own = resize_depth(result, truth.shape)
        fitted = self._fitted(own, truth, counted)
        stated = resize_map(spread, truth.shape) * self._stretch(own, truth, counted)
        sure = counted & np.isfinite(stated)
        return np.abs(fitted - truth)[sure], stated[sure]

    def _stretch(self, result: Item, truth: Item, counted: NDArray[np.bool_]) -> NDArray[np.floating[Any]]:
        """The derivative of the aligned depth by that of the result, (H, W), without its sign."""
        if self._alignment == "metric":
            return np.ones_like(result)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self._alignment == "scale_and_shift":
                return np.full_like(result, _slope(result, align(result, truth, counted)))
            aligned, disparity = align_disparity(result, truth, counted), 1.0 / np.asarray(result, np.float64)
            return np.asarray(_slope(disparity, 1.0 / aligned) * disparity**2 * aligned**2)

    def _counted(self, truth: Item) -> NDArray[np.bool_]:
        """Which pixels of a truth count, bool (H, W)."""
        counted = (truth >= self.options.nearest) & crop_mask(self.options.crop, truth.shape)
        if self.options.farthest is not None:
            counted &= truth <= self.options.farthest
        return np.asarray(counted)

    def _fitted(self, result: Item, truth: Item, counted: Item) -> Item:
        """The result aligned and within bounds."""
        aligned = {"metric": lambda *maps: maps[0], "scale_and_shift": align, "disparity": align_disparity}
        fitted = aligned[self._alignment](result, truth, counted)
        return np.clip(fitted, self.options.nearest, self.options.farthest).astype(np.float32)

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        """The mean depth of each pixel over the training data, whatever the picture."""
        options: Any = self.to_modality.options
        height, width = options.height_and_width
        total = np.zeros((height, width))
        count = np.zeros((height, width))
        for example in examples:
            depth = resize_depth(example, (height, width), getattr(options, "coverage", 0.5))
            total += np.nan_to_num(depth)
            count += ~np.isnan(depth)
        if not count.any():
            return None
        # Where nothing was ever measured, the mean of everything stands in.
        mean = np.where(count > 0, total / np.maximum(count, 1), total.sum() / count.sum()).astype(np.float32)
        return "constant map", [mean] * len(truths)


def _name(row: Mapping[str, Any]) -> str:
    return str(row["depth"]) if isinstance(row["depth"], str | Path) else "the pair"


def _slope(before: NDArray[Any], after: NDArray[Any]) -> float:
    """|a| of after = a before + b, over finite values; 0 where `before` is the same everywhere."""
    finite = np.isfinite(before) & np.isfinite(after)
    reach = float(np.ptp(before[finite])) if finite.any() else 0.0
    return float(np.ptp(after[finite])) / reach if reach > 0 else 0.0


def _mean(values: Sequence[float]) -> float:
    """Over the maps in which something counts."""
    counted = [value for value in values if not np.isnan(value)]
    return float(np.mean(counted)) if counted else float("nan")
