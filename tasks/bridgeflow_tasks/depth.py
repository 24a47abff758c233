"""Depth from one picture: the flow starts from the picture itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridgeflow.modality import Item
from bridgeflow.task import ModalityUse, Task
from bridgeflow_plugins.depth.geometry import check_aligned, resize_depth
from bridgeflow_plugins.depth.metrics import align, depth_metrics


class DepthEstimation(Task):
    """A picture becomes a depth map of its own size."""

    summary = "a depth map from a picture"
    source = ModalityUse("image_latent", {"resize": "stretch"})
    target = ModalityUse("depth", {"resize": "stretch"})
    columns = {"image": "a picture", "depth": "its depth map: 16-bit PNG, .npy, .pfm or EXR"}
    default_recipe = "depth/blocks"

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(picture, depth map), of one aspect ratio."""
        image, depth = self.from_modality.read(row["image"]), self.to_modality.read(row["depth"])
        check_aligned(
            image.shape[:2],
            depth.shape,
            str(row["depth"]) if not isinstance(row["depth"], np.ndarray) else "depth",
        )
        return image, depth

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
        metric = self.to_modality.options.normalisation.metric  # type: ignore[attr-defined]
        each: dict[str, list[float]] = {}
        for result, truth, row in zip(results, truths, rows, strict=True):
            fitted = resize_depth(result, truth.shape)
            if not metric:
                fitted = align(fitted, truth).astype(np.float32)
            scopes = {"": None, "foreground_": np.asarray(row["objects"]) > 0} if "objects" in row else {"": None}
            for scope, mask in scopes.items():
                for name, value in depth_metrics(fitted, truth, mask).items():
                    each.setdefault(scope + name, []).append(value)
        return {name: float(np.nanmean(values)) for name, values in each.items()}

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Sequence[Item]
    ) -> tuple[str, list[Item]] | None:
        """The mean depth of each pixel over the training data, whatever the picture."""
        if not examples:
            return None
        maps = np.stack([resize_depth(example, examples[0].shape) for example in examples])
        return "constant map", [np.nanmean(maps, axis=0).astype(np.float32)] * len(truths)
