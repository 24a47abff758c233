"""Depth: one distance per pixel, along the viewing axis, in metres."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.settings import Settings
from bridgeflow_plugins.depth.advice import advise
from bridgeflow_plugins.depth.formats import PNG_FULL_SCALE, READS, WRITES, colour, read_depth, write_depth
from bridgeflow_plugins.depth.geometry import check_aligned, fit_depth, valid_share
from bridgeflow_plugins.depth.metrics import align, depth_metrics
from bridgeflow_plugins.depth.normalise import LogNormalisation, NormalisationSettings

__all__ = [
    "Depth",
    "DepthOptions",
    "align",
    "check_aligned",
    "colour",
    "depth_metrics",
    "fit_depth",
    "read_depth",
    "write_depth",
]

_FOREIGN_ENDINGS = (
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".npz",
    ".hdr",
    ".mat",
    ".csv",
    ".txt",
)

Side = Annotated[int, Field(ge=1)]


class DepthOptions(Settings):
    """Options of the depth modality."""

    size: Side | tuple[Side, Side] = 64
    """Pixels that the model works at: one number for a square, or height and width."""
    resize: Literal["crop", "stretch"] = "stretch"
    """How a map comes to that size: `crop` fits the shorter side and cuts the centre, `stretch` fits both."""
    normalisation: NormalisationSettings = LogNormalisation()
    """How metres become values: log, inverse, linear (each with near and far), or affine (relative depth)."""
    channels: int = Field(default=3, ge=1)
    """Times the map is repeated: 3 gives it the shape of its picture, so the flow can start from that."""
    png_scale: float = Field(default=0.001, gt=0, allow_inf_nan=False)
    """Metres per step of a 16-bit PNG: 0.001 for millimetres, 0.00390625 (1/256) for KITTI."""
    coverage: float = Field(default=0.5, ge=0, le=1)
    """Share of what an output pixel covers that must be measured; 0 asks for one pixel, for sparse lidar."""

    @model_validator(mode="after")
    def _png_reaches_far(self) -> DepthOptions:
        far = getattr(self.normalisation, "far", 0.0)
        if far > PNG_FULL_SCALE * self.png_scale:
            # The 5% outweigh what two digits round away.
            raise ValueError(
                f"png_scale {self.png_scale:g} ends at {PNG_FULL_SCALE * self.png_scale:.4g} m in a 16-bit "
                f"PNG, but far is {far:g} m: take a png_scale of {1.05 * far / PNG_FULL_SCALE:.2g} or more"
            )
        return self

    @property
    def height_and_width(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Depth(Modality):
    """Depth maps. An item is float32 (H, W) in metres, NaN where there is no measurement.

    The latent is the normalised map, near -1 and far +1, repeated over the channels; its mask is True where
    depth was measured. With the normalisation `affine`, decoded items are relative depth in (0, 1].
    """

    summary: ClassVar[str] = "depth maps in metres: 16-bit PNG, .npy, .npz, .pfm, .exr"
    Options: ClassVar[type[Settings]] = DepthOptions
    reads: ClassVar[tuple[str, ...]] = READS
    writes: ClassVar[str] = ""
    column: ClassVar[str] = "depth"
    round_trip: ClassVar[float | None] = 0.001
    options: DepthOptions

    def __init__(self, options: DepthOptions) -> None:
        super().__init__(options)

    @property
    def latent(self) -> LatentSpec:
        """A grid (channels, height, width)."""
        return LatentSpec((self.options.channels, *self.options.height_and_width), "grid")

    def read(self, value: Any) -> NDArray[np.float32]:
        """A depth map from whatever `read_depth` takes; integers are multiplied by `png_scale`."""
        return read_depth(value, self.options.png_scale)

    def collate(self, items: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
        """`depth` (B, 1, H, W), float32 in metres with 0 where invalid, and `valid` (B, 1, H, W), bool."""
        options = self.options
        maps = [fit_depth(item, options.height_and_width, options.resize, options.coverage) for item in items]
        depth = torch.from_numpy(np.stack(maps)).unsqueeze(1)
        valid = ~depth.isnan()
        return {"depth": depth.nan_to_num(0.0), "valid": valid}

    def check_valid(self, item: NDArray[np.float32], name: str) -> None:
        """Raises BridgeflowError, which begins with `name`, where no pixel of a map is valid at the model's size, so
        that there is nothing to learn from it."""
        options = self.options
        if valid_share(item, options.height_and_width, options.resize, options.coverage) == 0:
            height, width = options.height_and_width
            fix = "set target.coverage=0, as for lidar" if options.coverage > 0 else "leave the row out"
            raise BridgeflowError(
                f"{name} is measured so sparsely that no pixel counts at the model's {width}x{height}, where one has "
                f"to be measured over a share of {options.coverage:g} (target.coverage): {fix}."
            )

    def advise(self, items: Iterable[NDArray[np.float32]], side: str) -> list[str]:
        """Where depth lies outside the normalisation's range, and where it is lost at the model's size."""
        return advise(items, self.options, side)

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """Normalised values in [-1, 1], (B, channels, H, W), with the valid pixels as mask (B, 1, H, W)."""
        values = self.options.normalisation.forward(batch["depth"], batch["valid"])
        return Latent(values.repeat(1, self.options.channels, 1, 1), mask=batch["valid"])

    def decode(self, latent: Tensor) -> list[NDArray[np.float32]]:
        """Maps (H, W) from latents (B, channels, H, W): the channels are averaged."""
        if latent.shape[1:] != self.latent.shape:
            expected = ", ".join(map(str, self.latent.shape))
            raise BridgeflowError(
                f"depth decodes latents of shape (B, {expected}), not {tuple(latent.shape)}: use the options that they "
                "were made with."
            )
        depth = self.options.normalisation.inverse(latent.detach().float().mean(dim=1))
        if not self.options.normalisation.metric:
            # 0 means "no measurement" in every depth file.
            depth = depth.clamp(min=1 / PNG_FULL_SCALE)
        return list(depth.cpu().numpy())

    def mean_and_spread(self, items: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Modality.mean_and_spread`; in metres, or in the units of relative depth."""
        # From the first on, so that equal maps have a spread of exactly 0.
        further = np.stack(items) - items[0]
        return items[0] + further.mean(axis=0), further.std(axis=0, ddof=1)

    def write(self, item: NDArray[np.float32], path: Path) -> list[Path]:
        """Writes one file where `path` ends in .png (16-bit), .npy, .pfm or .exr.

        A path without such an ending gives `NAME.png`, `NAME.npy` and, to look at, `NAME-colour.png`.
        Relative depth is written to PNG at full scale, 1.0 as 65535.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending in _FOREIGN_ENDINGS:
            raise BridgeflowError(
                f"{path}: depth is not written as {ending}: choose {', '.join(WRITES)}, or no ending."
            )
        scale = self.options.png_scale if self.options.normalisation.metric else 1 / PNG_FULL_SCALE
        if ending in WRITES:
            write_depth(item, path, scale)
            return [path]
        # A dot in the name itself ("scene.v2") is no ending, so endings are added, not replaced.
        plain, values, picture = (path.with_name(path.name + end) for end in (".png", ".npy", "-colour.png"))
        write_depth(item, plain, scale)
        write_depth(item, values, scale)
        try:
            self.preview(item).save(picture)
        except OSError as error:
            raise BridgeflowError(f"cannot write {picture}: check that the folder is writable and not full.") from error
        return [plain, values, picture]

    def preview(self, item: NDArray[np.float32]) -> Image.Image:
        """The map in colour: near bright and warm, far dark, invalid grey."""
        return Image.fromarray(colour(item, inverse=self.options.normalisation.metric))

    def example(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """A made-up map of the model's size: a floor, a wall, a few boxes before it, and a hole without measurements,
        all between 1 and 12 metres."""
        height, width = self.options.height_and_width
        rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        wall, near = rng.uniform(8, 12), rng.uniform(1, 2)
        depth = np.minimum(wall, near / np.maximum(rows, near / 12)).astype(np.float32) * np.ones(width, np.float32)
        for _ in range(3):
            top, left = rng.integers(height), rng.integers(width)
            bottom, right = top + rng.integers(1, height // 2 + 2), left + rng.integers(1, width // 2 + 2)
            box = depth[top:bottom, left:right]
            np.minimum(box, np.float32(rng.uniform(1, 8)), out=box)
        depth[: height // 8, : width // 8] = np.nan
        return depth

    def extremes(self) -> Mapping[str, NDArray[np.float32]]:
        """All as near and as far as can be, all at one distance, an odd size, and nothing measured."""
        size = self.options.height_and_width
        return {
            "minimum": np.full(size, np.finfo(np.float32).tiny),
            "maximum": np.full(size, 1e30, np.float32),
            "constant": np.full(size, 2.5, np.float32),
            "odd": np.linspace(1, 10, 37 * 23, dtype=np.float32).reshape(37, 23),
            "unmeasured": np.full(size, np.nan, np.float32),
        }
