"""Edge maps as a modality: how sharply a picture changes at each of its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.settings import Settings
from bridgeflow_plugins.image_latent.pixels import IMAGE_ENDINGS, open_image
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from bridgeflow_edges.files import as_picture, is_marked, write_edges
from bridgeflow_edges.sobel import find_edges

EdgeMap = NDArray[np.float32]


class EdgesOptions(Settings):
    """Options of the modality edges."""

    size: int = Field(default=32, ge=8, le=1024)
    """Width and height in pixels that the model works at."""
    channels: int = Field(default=3, ge=1)
    """Times the map is repeated: 3 gives the latent the shape of an RGB picture, so that the flow can start there."""
    files: Literal["auto", "pictures", "edges"] = "auto"
    """What a picture file holds: a picture, whose edges are found, or an edge map; auto tells them apart by the mark
    that written edge maps carry."""


class Edges(Modality):
    """Edge maps. An item is float32 (H, W) in [0, 1]: 0 where nothing changes, 1 at a step from black to white.

    The latent is the map scaled to [-1, 1] and repeated over the channels, (channels, size, size).
    """

    summary: ClassVar[str] = "edge maps, found in pictures"
    Options: ClassVar[type[Settings]] = EdgesOptions
    reads: ClassVar[tuple[str, ...]] = IMAGE_ENDINGS
    writes: ClassVar[str] = ".png"
    column: ClassVar[str] = "image"
    # A PNG holds 256 levels, 2/255 apart in the latent.
    round_trip: ClassVar[float | None] = 0.01
    options: EdgesOptions

    def __init__(self, options: EdgesOptions) -> None:
        super().__init__(options)

    @property
    def latent(self) -> LatentSpec:
        """A grid (channels, size, size)."""
        return LatentSpec((self.options.channels, self.options.size, self.options.size), "grid")

    def read(self, value: Any) -> EdgeMap:
        """An edge map from a picture or from an edge map: a path, the bytes of a file, a PIL image or an array.

        A picture is brought to the model's size first, so that a line is as thin in a photograph as in training.
        An array (H, W) of floating point is an edge map already.
        """
        if isinstance(value, np.ndarray) and value.ndim == 2 and np.issubdtype(value.dtype, np.floating):
            if value.size == 0 or not (value.min() >= 0 and value.max() <= 1):
                raise BridgeflowError("an edge map given as an array has values in [0, 1], and this one has not.")
            return value.astype(np.float32)
        picture = open_image(value)
        if self.options.files == "edges" or (self.options.files == "auto" and is_marked(value)):
            return picture[:, :, 0].astype(np.float32) / np.float32(255)
        size = (self.options.size, self.options.size)
        return find_edges(np.asarray(ImageOps.fit(Image.fromarray(picture), size)))

    def collate(self, items: Sequence[EdgeMap]) -> dict[str, Tensor]:
        """`edges`: float32 (B, 1, size, size) in [0, 1]; a map of another size is cut to a square and resized."""
        size = (self.options.size, self.options.size)
        fitted = []
        for item in items:
            if item.ndim != 2:
                raise BridgeflowError(f"an edge map has the shape (H, W), not {item.shape}: give one number a pixel.")
            # Where nothing is to be resized, nothing is touched.
            resized = item if item.shape == size else ImageOps.fit(Image.fromarray(item), size)
            fitted.append(np.asarray(resized, np.float32).clip(0, 1))
        return {"edges": torch.from_numpy(np.stack(fitted)).unsqueeze(1)}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """(B, channels, size, size) in [-1, 1] from what `collate` made."""
        return Latent((batch["edges"].float() * 2 - 1).repeat(1, self.options.channels, 1, 1))

    def decode(self, latent: Tensor) -> list[EdgeMap]:
        """Maps, float32 (size, size) in [0, 1], from latents (B, channels, size, size)."""
        if latent.shape[1:] != self.latent.shape:
            expected = ", ".join(map(str, self.latent.shape))
            raise BridgeflowError(
                f"latents of edges have the shape (B, {expected}), not {tuple(latent.shape)}: use the same options."
            )
        maps = (latent.detach().float().mean(dim=1) + 1) / 2
        return list(maps.clamp(0, 1).cpu().numpy())

    def write(self, item: EdgeMap, path: Path) -> list[Path]:
        """Writes a PNG, white where an edge is, that `read` knows for an edge map."""
        write_edges(item, path)
        return [path]

    def preview(self, item: EdgeMap) -> Image.Image:
        """The map as dark lines on white."""
        return ImageOps.invert(as_picture(item)).convert("RGB")

    def example(self, rng: np.random.Generator) -> EdgeMap:
        """The edges of a made-up picture."""
        return self.read(draw_picture(rng, self.options.size))

    def extremes(self) -> Mapping[str, EdgeMap]:
        """No edge at all, an edge everywhere, one strength everywhere, and a size that nothing divides."""
        size = (self.options.size, self.options.size)
        return {
            "minimum": np.zeros(size, np.float32),
            "maximum": np.ones(size, np.float32),
            "constant": np.full(size, 0.5, np.float32),
            "odd": np.linspace(0, 1, 37 * 23, dtype=np.float32).reshape(37, 23),
        }


def draw_picture(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A made-up picture, uint8 (size, size, 3): four rectangles of any colour on a ground of any colour."""
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = rng.integers(256, size=3)
    for _ in range(4):
        top, left = rng.integers(size - size // 4, size=2)
        height, width = rng.integers(size // 4, size // 2 + 1, size=2)
        picture[top : top + height, left : left + width] = rng.integers(256, size=3)
    return picture
