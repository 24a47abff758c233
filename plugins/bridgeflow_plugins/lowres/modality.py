"""The modality `lowres`: a low-resolution picture in the latent space of the picture it came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow_plugins.image_latent.modality import ImageLatent, ImageOptions, draw_picture
from bridgeflow_plugins.image_latent.pixels import Pixels, fit_image, to_tensor
from bridgeflow_plugins.lowres.resampling import degrade, enlarge


class LowResOptions(ImageOptions):
    """Options of `lowres`; `size`, `resize` and `codec` are the target's."""

    factor: int = Field(4, ge=1)
    """How many times smaller each side of the low-resolution picture is than the target's."""
    tile: PositiveInt | None = None
    """Low-resolution pixels of a side of the square tiles that `run` cuts pictures into; the model's own size where it
    is not set. Larger ones save the overlaps, for networks that take any size (unet)."""


class LowRes(ImageLatent):
    """The source of super-resolution. An item is the low-resolution picture itself, uint8 (h, w, 3).

    It is enlarged to the target's size and encoded by the target's codec: a flow can start from its latent,
    and a fitted codec is restored from the target's state.
    """

    summary = "low-resolution pictures, enlarged and encoded like the target"
    Options = LowResOptions
    options: LowResOptions

    def __init__(self, options: LowResOptions) -> None:
        super().__init__(options)
        height, width = options.height_and_width
        if height % options.factor or width % options.factor:
            near = "x".join(str(max(n // options.factor, 1) * options.factor) for n in (height, width))
            raise UsageError(
                f"size {height}x{width} does not suit the factor {options.factor}: "
                f"height and width have to be multiples of it, such as {near}."
            )
        if options.tile is not None and options.tile * options.factor % self.codec.multiple:
            raise UsageError(
                f"source.tile={options.tile} gives tiles of {options.tile * options.factor} pixels, and the codec "
                f"{options.codec.name!r} takes multiples of {self.codec.multiple}: choose another."
            )

    @property
    def low_size(self) -> tuple[int, int]:
        """(height, width) of the low-resolution picture that becomes one latent."""
        height, width = self.options.height_and_width
        return height // self.options.factor, width // self.options.factor

    @property
    def tile_size(self) -> tuple[int, int]:
        """(height, width) of the low-resolution tiles that a picture is cut into."""
        tile = self.options.tile
        return self.low_size if tile is None else (tile, tile)

    def batch_key(self, item: Pixels) -> bool:
        """Tiles and pictures of the model's own size do not mix."""
        return item.shape[:2] == self.tile_size

    def tile_for(self, item: Pixels) -> tuple[int, int]:
        """(height, width) of the tiles that a picture is cut into: the model's own size where the picture fits into
        that, so that nothing is computed for the padding of a larger one."""
        fits = all(side <= own for side, own in zip(item.shape, self.low_size, strict=False))
        return self.low_size if fits else self.tile_size

    @property
    def piece_latent(self) -> LatentSpec:
        """That of a tile."""
        height, width = (side * self.options.factor // self.codec.multiple for side in self.tile_size)
        return LatentSpec((self.codec.channels, height, width), "grid")

    @property
    def round_trip(self) -> float | None:  # type: ignore[override]
        """Larger than the codec's, since what `decode` gives is enlarged already and is made small once more."""
        return self.codec.round_trip + 0.1

    def degrade(self, image: Pixels) -> Pixels:
        """The item of a high-resolution picture; see `bridgeflow_plugins.lowres.resampling.degrade`."""
        return degrade(image, self.options.factor)

    def collate(self, items: Sequence[Pixels]) -> dict[str, Tensor]:
        """`pixels`: float32 (B, 3, H, W) in [-1, 1], the items enlarged by `factor`.

        Items that are all of `tile_size` are taken as they are; else what is not of `low_size` is fitted to it first,
        and H, W are the target's size.
        """
        are_tiles = all(item.shape[:2] == self.tile_size for item in items)
        size = self.tile_size if are_tiles else self.low_size
        fitted = [fit_image(item, size, self.options.resize) for item in items]
        with torch.no_grad():
            return {"pixels": enlarge(to_tensor(fitted), self.options.factor)}

    def example(self, rng: np.random.Generator) -> Pixels:
        """A made-up picture of `low_size`."""
        return draw_picture(rng, self.low_size)
