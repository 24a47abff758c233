"""Super-resolution: the flow starts from the enlarged low-resolution picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bridgeflow.data.item_cache import ItemCache
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Modality
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task, Thorough
from bridgeflow_plugins.image_latent.distances import Distances
from bridgeflow_plugins.image_latent.metrics import psnr, psnr_y, ssim, ssim_y
from bridgeflow_plugins.image_latent.perceptual import INCEPTION, LPIPS, fid, load_judges, lpips
from bridgeflow_plugins.image_latent.pixels import Pixels, fit_image, to_images, to_tensor
from bridgeflow_plugins.lowres import LowRes
from bridgeflow_plugins.lowres.resampling import enlarge
from bridgeflow_plugins.lowres.tiling import blend, tiles
from bridgeflow_tasks.scenes import made_up_scene


class SuperResolutionOptions(Settings):
    """How pictures are cut for training and tiled when run."""

    overlap: int = Field(default=4, ge=0)
    """Low-resolution pixels that neighbouring tiles share when a picture is larger than the model."""
    most_pixels: int = Field(default=500_000, ge=1)
    """Largest low-resolution picture, in pixels, that `run` takes on."""
    turns: bool = False
    """Whether cuts to train on are mirrored and turned by quarters, one of eight ways at random: for photographs,
    of which there are few. Turns need a square size."""
    zoom: float = Field(default=1.0, ge=1)
    """Greatest factor by which a part of a picture is made smaller before it becomes a cut to train on, drawn anew each
    time (its logarithm is uniform): few pictures then show the world at many scales. 1 leaves pictures as they are."""
    scored_pixels: int = Field(default=2**20, ge=1)
    """Largest part of a held-out picture that `eval` scores, in pixels: its centre. Smaller ones are scored whole."""
    cache_mb: int = Field(default=1024, ge=0)
    """Memory for decoded pictures, from which training cuts anew in every epoch."""


def turned(image: Pixels, way: int) -> Pixels:
    """The picture in one of the eight ways of a square: turned by `way % 4` quarters, mirrored first from 4 on."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if way >= 4 else image, way % 4))


def zoomed_cut(image: Pixels, size: tuple[int, int], zoom: float, rng: np.random.Generator) -> Pixels:
    """A cut of `size` (height, width) from anywhere in a picture, made smaller by 1 to `zoom` as far as the picture
    reaches; a copy, so that it does not keep the picture in memory."""
    sides = (image.shape[0], image.shape[1])
    most = min(zoom, *(length / side for length, side in zip(sides, size, strict=True)))
    scale = most ** rng.random() if most > 1 else 1.0
    height, width = (min(round(side * scale), length) for side, length in zip(size, sides, strict=True))
    top, left = int(rng.integers(sides[0] - height + 1)), int(rng.integers(sides[1] - width + 1))
    cut = image[top : top + height, left : left + width]
    return cut.copy() if (height, width) == size else fit_image(cut, size, "stretch")


def central(image: Pixels, sides: tuple[int, int], multiple: int) -> Pixels:
    """A copy of the middle of a picture, `sides` (height, width) or as much as there is, cut to multiples. Raises
    BridgeflowError where that leaves nothing."""
    height, width = (min(side, own) // multiple * multiple for side, own in zip(sides, image.shape, strict=False))
    if not height or not width:
        raise BridgeflowError(
            f"a picture of {image.shape[1]}x{image.shape[0]} cannot be made {multiple} times smaller: leave it out."
        )
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width].copy()


class SuperResolution(Task):
    """A small picture becomes one `factor` times its size."""

    summary = "a larger, sharper picture from a small one"
    source = ModalityUse("lowres")
    target = ModalityUse("image_latent")
    columns = {"image": "a picture in full resolution; the low one is made from it"}
    better = {
        "psnr": "higher",
        "psnr_y": "higher",
        "ssim": "higher",
        "ssim_y": "higher",
        "lpips": "lower",
        "fid": "lower",
        "fd_efflite0": "lower",
        "kd_efflite0": "lower",
    }
    judges = {"lpips": LPIPS, "inception": INCEPTION}
    default_recipe = "superres/blocks"
    default_model = "superres/photos"
    Options = SuperResolutionOptions

    def __init__(self, options: SuperResolutionOptions, source: Modality, target: Modality) -> None:
        super().__init__(options, source, target)
        if not isinstance(source, LowRes):
            raise TypeError(f"the source of super-resolution is a LowRes, not a {type(source).__name__}")
        smallest = min(*source.low_size, *source.tile_size)
        if 2 * options.overlap > smallest:
            raise UsageError(
                f"options.overlap={options.overlap} does not suit tiles of {smallest} pixels: "
                f"choose at most {smallest // 2}."
            )
        height, width = source.options.height_and_width
        if options.turns and height != width:
            raise UsageError(
                f"options.turns=true turns cuts by quarters, which {width}x{height} does not suit: make source.size "
                "and target.size square."
            )
        self.lowres = source
        self.cut = options
        self._cache = ItemCache(options.cache_mb * 2**20)

    def judge_by(self, weights: Mapping[str, str]) -> None:
        """Names the weights that `thorough` judges by, and loads them. Raises UsageError where the task has no such
        judge, and BridgeflowError where there is no network of that kind at a place."""
        super().judge_by(weights)
        load_judges(weights)

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(low-resolution cut, the cut), taken somewhere from the picture at its own resolution."""
        image, (height, width) = self._image(row), self.lowres.options.height_and_width
        if image.shape[0] < height or image.shape[1] < width:
            raise BridgeflowError(
                f"a picture of {image.shape[1]}x{image.shape[0]} is smaller than the cuts to train on "
                f"({width}x{height}): use larger pictures or set source.size and target.size."
            )
        cut = zoomed_cut(image, (height, width), self.cut.zoom, rng)
        if self.cut.turns:
            cut = turned(cut, int(rng.integers(8)))
        return self.lowres.degrade(cut), cut

    def held_out_pair(self, row: Mapping[str, Any], rng: np.random.Generator, whole: bool = False) -> tuple[Item, Item]:
        """The centre of the picture, as large as a cut to train on, or with `whole` as `scored_pixels` allows: at its
        own scale, neither mirrored nor turned."""
        image, sides = self._image(row), self.lowres.options.height_and_width
        if whole:
            shrink = min(1.0, (self.cut.scored_pixels / (image.shape[0] * image.shape[1])) ** 0.5)
            sides = (int(image.shape[0] * shrink), int(image.shape[1] * shrink))
        centre = central(image, sides, self.lowres.options.factor)
        return self.lowres.degrade(centre), centre

    def _image(self, row: Mapping[str, Any]) -> Pixels:
        image: Pixels = self._cache.get(row["image"], self.to_modality.read)
        return image

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        """A scene of the blocks world: `image` uint8 (96, 96, 3), larger than a cut."""
        return {"image": made_up_scene(rng, 96)["image"]}

    def split(self, item: Item) -> list[Item]:
        """Overlapping tiles of the model's size."""
        if item.shape[0] * item.shape[1] > self.cut.most_pixels:
            raise BridgeflowError(
                f"the picture has {item.shape[1]}x{item.shape[0]} pixels, more than the {self.cut.most_pixels:,} that "
                "are enlarged at once: give a smaller one."
            )
        return [tile.image for tile in tiles(item, self.lowres.tile_for(item), self.cut.overlap)]

    def join(self, results: Sequence[Item], item: Item) -> Item:
        """The tiles blended without seams, `factor` times the picture's size."""
        places = [tile.place for tile in tiles(item, self.lowres.tile_for(item), self.cut.overlap)]
        return blend(results, places, item.shape[:2], self.lowres.options.factor)

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        """PSNR over RGB and over luma, in dB, averaged over pictures."""
        pairs = list(zip(results, truths, strict=True))
        return {name: float(np.mean([of(a, b) for a, b in pairs])) for name, of in (("psnr", psnr), ("psnr_y", psnr_y))}

    def thorough(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> Thorough | None:
        """SSIM over RGB and over luma, the distances between all results and all truths (see `distances`), and LPIPS
        and FID where their weights are given."""
        pairs = list(zip(results, truths, strict=True))
        notes: list[str] = []
        similar: dict[str, list[float]] = {}
        if min(min(truth.shape[:2]) for truth in truths) >= 11:
            similar = {
                name: [of(result, truth) for result, truth in pairs]
                for name, of in (("ssim", ssim), ("ssim_y", ssim_y))
            }
        else:
            notes.append("structural similarity needs pictures of 11 pixels a side, so it is left out.")
        if "lpips" in self.weights:
            similar["lpips"] = lpips(results, truths, self.weights["lpips"])
        distances = Distances(results, truths)
        once, more = dict(distances.once), list(distances.notes)
        if "inception" in self.weights:
            found, noted = fid(results, truths, self.weights["inception"])
            once, more = {**once, **found}, [*more, *noted]

        def figures(chosen: Sequence[int]) -> dict[str, float]:
            means = {name: float(np.mean([values[i] for i in chosen])) for name, values in similar.items()}
            return {**means, **distances.figures(chosen)}

        return Thorough(figures, once, [*notes, *more])

    def errors(self, result: Item, spread: NDArray[Any], truth: Item) -> tuple[NDArray[Any], NDArray[Any]]:
        """See `Task.errors`: the root of the channels' mean square difference, in steps of 255."""
        difference = result.astype(np.float32) - truth.astype(np.float32)
        return np.sqrt(np.square(difference).mean(axis=-1)).ravel(), spread.ravel()

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        """The low-resolution picture enlarged by bicubic interpolation."""
        return "bicubic", [to_images(enlarge(to_tensor([own]), self.lowres.options.factor))[0] for own in sources]
