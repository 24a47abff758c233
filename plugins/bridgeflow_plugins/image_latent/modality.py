"""The modality `image_latent`: pictures, encoded by an image codec."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, PositiveInt
from torch import Tensor

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Latent, LatentSpec, Modality, Progress
from bridgeflow.settings import Settings
from bridgeflow_plugins.image_latent.autoencoder import KLSettings, TinySettings
from bridgeflow_plugins.image_latent.codecs import Codec, PixelsSettings, pixels_of_levels, psnr
from bridgeflow_plugins.image_latent.convolutional import ConvSettings
from bridgeflow_plugins.image_latent.pca import PCASettings
from bridgeflow_plugins.image_latent.pixels import (
    IMAGE_ENDINGS,
    READING,
    Pixels,
    Resize,
    fit_image,
    open_image,
    to_images,
    to_tensor,
)
from bridgeflow_plugins.image_latent.tokens import TokensSettings

CodecSettings = Annotated[
    PixelsSettings | PCASettings | ConvSettings | TokensSettings | KLSettings | TinySettings,
    Field(discriminator="name"),
]

MAX_FITTING_BYTES = 2**29
"""Most memory that the pictures of fitting take."""

SAVED_AS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95},
}
"""Formats that pictures are written in, by file ending."""


class ImageOptions(Settings):
    """Options of `image_latent`."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt] = 64
    """Pixels: one number for a square, or height and width."""
    resize: Resize = "crop"
    """`crop` keeps the aspect ratio and cuts the centre out; `stretch` does not."""
    codec: CodecSettings = PixelsSettings()
    """What makes the latent: pixels, pca, conv, tokens, kl or tiny."""

    @property
    def height_and_width(self) -> tuple[int, int]:
        """The size as (height, width) in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class ImageLatent(Modality):
    """Pictures. An item is uint8 (H, W, 3), RGB, of any size; a batch is (B, 3, H, W) in [-1, 1]."""

    summary = "pictures, as pixels or in the latent space of an image codec"
    Options = ImageOptions
    reads = IMAGE_ENDINGS
    reading = READING
    writes = ".png"
    column = "image"
    fit_options = {"codec": {"name": "pca"}}
    options: ImageOptions

    def __init__(self, options: ImageOptions) -> None:
        super().__init__(options)
        self.codec: Codec = options.codec.build()
        height, width = self.codec.sizes = options.height_and_width
        multiple = self.codec.multiple
        if height % multiple or width % multiple:
            near = "x".join(str(max(round(n / multiple), 1) * multiple) for n in (height, width))
            raise UsageError(
                f"size {height}x{width} does not suit the codec {options.codec.name!r}: "
                f"height and width have to be multiples of {multiple}, such as {near}."
            )
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever the modules around it do: the codec is frozen."""
        return super().train(False)

    @property
    def latent(self) -> LatentSpec:
        """Grid (channels, H / multiple, W / multiple) of the codec, or the sequence of one without places; known
        before it is fitted or loaded."""
        return self.codec.spec(*self.options.height_and_width)

    def read(self, value: Any) -> Pixels:
        """The picture of a path, of encoded bytes, of a PIL image or of an array; see `open_image`."""
        return open_image(value)

    def collate(self, items: Sequence[Pixels]) -> dict[str, Tensor]:
        """`pixels`: float32 (B, 3, H, W) in [-1, 1], every picture fitted to the size."""
        size, resize = self.options.height_and_width, self.options.resize
        return {"pixels": to_tensor([fit_image(item, size, resize) for item in items])}

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """The codec's latent, in float32 under mixed precision too: a cached latent must not depend on it."""
        pixels = batch["pixels"]
        with torch.autocast(pixels.device.type, enabled=False):
            mean, std = self.codec.encode(pixels.float())
        return Latent(mean, std)

    def observed(self, batch: dict[str, Tensor]) -> Tensor:
        """The pixels, (B, 3, H, W) in [-1, 1]."""
        return batch["pixels"]

    @torch.no_grad()
    def decode(self, latent: Tensor) -> list[Pixels]:
        """Pictures, uint8 (H, W, 3), of latents (B, C, h, w); h and w may be others than the model's, since every
        codec works alike at all places."""
        spec = self.latent
        fits = latent.ndim == 1 + len(spec.shape) and latent.shape[1] == spec.shape[0]
        if not fits or (spec.layout == "sequence" and latent.shape[1:] != spec.shape):
            expected = ", ".join(map(str, spec.shape))
            raise BridgeflowError(
                f"the codec {self.options.codec.name!r} decodes latents of shape (B, {expected}), not "
                f"{tuple(latent.shape)}: use the options that they were made with."
            )
        with torch.autocast(latent.device.type, enabled=False):
            return to_images(self.codec.decode(latent.float()))

    def mean_and_spread(self, items: Sequence[Pixels]) -> tuple[Pixels, NDArray[np.float32]]:
        """See `Modality.mean_and_spread`; the spread, in steps of 255, is the root of the channels' mean variance."""
        pictures = np.stack(items).astype(np.float32)
        spread = np.sqrt(pictures.var(axis=0, ddof=1).mean(axis=-1))
        return np.round(pictures.mean(axis=0)).astype(np.uint8), spread

    def unload(self) -> None:
        """Drops pretrained weights until they are next needed; those of a fitted codec stay, being all there is."""
        self.codec.unload()

    def write(self, item: Pixels, path: Path) -> list[Path]:
        """Writes PNG, JPEG or WebP, by the ending of `path`; makes its folders."""
        settings = SAVED_AS.get(path.suffix.lower())
        if settings is None:
            raise BridgeflowError(
                f"{path} has the ending {path.suffix!r} where a picture's was expected: use {', '.join(SAVED_AS)}."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(item).save(path, **settings)
        except OSError as error:
            raise BridgeflowError(
                f"{path} cannot be written ({error.strerror or error}): choose another place."
            ) from error
        return [path]

    def preview(self, item: Pixels) -> Image.Image:
        """The picture itself."""
        return Image.fromarray(item)

    @property
    def most_fitted(self) -> int:  # type: ignore[override]
        """Pictures that the codec wants, as many of them as take 512 MB."""
        height, width = self.options.height_and_width
        return max(min(self.codec.most_pictures, MAX_FITTING_BYTES // (height * width * 3)), 16)

    @property
    def round_trip(self) -> float | None:  # type: ignore[override]
        """That of the codec: pixels are exact to half a level, an autoencoder is not."""
        return self.codec.round_trip

    def example(self, rng: np.random.Generator) -> Pixels:
        """A made-up picture of the model's size: rectangles and a disc on a ground that shades from one colour to
        another."""
        return draw_picture(rng, self.options.height_and_width)

    def extremes(self) -> Mapping[str, Pixels]:
        """Black, white, one grey, and an odd size."""
        size = (*self.options.height_and_width, 3)
        odd = np.arange(37 * 23 * 3, dtype=np.uint32).reshape(37, 23, 3) * 7 % 256
        return {
            "minimum": np.zeros(size, np.uint8),
            "maximum": np.full(size, 255, np.uint8),
            "constant": np.full(size, 128, np.uint8),
            "odd": odd.astype(np.uint8),
        }

    @property
    def needs_fit(self) -> bool:
        """True while the codec has to be fitted before it can encode."""
        return self.codec.needs_fit

    @torch.no_grad()
    def fit(self, items: Iterable[Pixels], progress: Progress | None = None) -> dict[str, float]:
        """Fits the codec to at most `most_fitted` pictures.

        Returns `psnr` in dB over every tenth picture, which is held out (over the fitting pictures themselves
        where there are fewer than ten), and the codec's own figures, such as `explained_variance`.
        """
        if not self.needs_fit and not self.codec.fitted_state():
            return super().fit(items, progress)
        levels = self._gather(items, progress)
        is_held_out = torch.arange(len(levels)) % 10 == 9
        held_out = levels[is_held_out][:256] if is_held_out.any() else levels
        figures = self.codec.fit(levels[~is_held_out], progress)
        device = next(self.buffers()).device
        truth = pixels_of_levels(held_out)
        parts = [self.codec.decode(self.codec.encode(p)[0]).cpu() for p in truth.to(device).split(16)]
        return {"psnr": psnr(torch.cat(parts), truth), **figures}

    def _gather(self, items: Iterable[Pixels], progress: Progress | None) -> Tensor:
        """uint8 (N, 3, H, W): the pictures as they are encoded."""
        most = self.most_fitted
        total = min(most, len(items)) if isinstance(items, Sized) else most
        gathered: list[Tensor] = []
        for item in items:
            pixels = self.collate([item])["pixels"][0]
            gathered.append(pixels.add(1).mul(127.5).round().to(torch.uint8))
            if progress is not None:
                progress(len(gathered), total, "reading pictures")
            if len(gathered) == most:
                break
        if not gathered:
            raise BridgeflowError(
                f"the codec {self.options.codec.name!r} has no pictures to be fitted to: give data with some."
            )
        return torch.stack(gathered)

    def fitted_state(self) -> dict[str, Tensor]:
        """Tensors that fitting made; empty for pixels and for pretrained weights."""
        return self.codec.fitted_state()

    def fitted_facts(self) -> dict[str, Any]:
        """JSON values that fitting made."""
        return self.codec.fitted_facts()

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes back what `fitted_state` and `fitted_facts` gave."""
        self.codec.restore(state, facts)

    def fingerprint(self) -> str:
        """As of every modality, and of the content of pretrained weights too."""
        digest = self.codec.weights_digest()
        if not digest:
            return super().fingerprint()
        return hashlib.sha256(f"{super().fingerprint()} {digest}".encode()).hexdigest()[:16]


def draw_picture(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """A made-up picture, uint8 (*size, 3): three rectangles and a disc on a ground that shades between two colours."""
    height, width = size
    above, below = rng.integers(256, size=(2, 1, 1, 3))
    share = np.linspace(0, 1, height)[:, None, None]
    picture = np.broadcast_to(above * (1 - share) + below * share, (height, width, 3)).astype(np.uint8)
    for _ in range(3):
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = top + rng.integers(1, height // 2 + 2), left + rng.integers(1, width // 2 + 2)
        picture[top:bottom, left:right] = rng.integers(256, size=3)
    row, column = rng.random(2) * size
    rows, columns = np.ogrid[:height, :width]
    picture[(rows - row) ** 2 + (columns - column) ** 2 < (min(size) / 5) ** 2] = rng.integers(256, size=3)
    return picture
