"""Colour profiles: a picture in another colour space than sRGB is converted to sRGB as it is read."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

ROUNDING = 1
"""Levels by which a profile of sRGB may differ from no conversion at all."""

_MODE_OF = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Mode in which LittleCMS takes the pixels of a profile's colour space."""
_SUITS = {"RGB": ("1", "L", "P", "RGB", "RGBX", "YCbCr"), "L": ("1", "L"), "CMYK": ("CMYK",)}
"""Modes of pictures that a profile of a mode can describe: grey under an RGB profile is three equal channels."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture, without transparency, in mode RGB, its pixels converted from the ICC profile to sRGB.

    Where there is no profile, where it is sRGB's own, and where it is broken or made for other pictures (CMYK on an RGB
    picture), only the mode changes.
    """
    found = _transform(profile) if profile else None
    if found is not None and image.mode in _SUITS[found[0]]:
        mode, transform = found
        return transform.apply(image if image.mode == mode else image.convert(mode))
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """The mode that a profile describes, and what brings its pixels to sRGB; None where that changes nothing or cannot
    be had."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODE_OF[opened.profile.xcolor_space.strip()]
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(opened, srgb, mode, "RGB")
        probe = _probe(mode)
        change = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    # A profile that LittleCMS does not take, or of another kind of colours; ImportError where PIL was built without it.
    except (OSError, ValueError, KeyError, ImportError, ImageCms.PyCMSError):
        return None
    if mode != "CMYK" and np.abs(change).max() <= ROUNDING:
        return None
    return mode, transform


def _probe(mode: str) -> Image.Image:
    """A picture of every grey, and for a mode of several channels of a cube of colours."""
    greys = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(greys[None])
    axis = np.linspace(0, 255, 9).round().astype(np.uint8)
    channels = len(Image.new(mode, (1, 1)).getbands())
    cube = np.stack(np.meshgrid(*[axis] * channels), axis=-1).reshape(1, -1, channels)
    ramp = np.repeat(greys[None, :, None], channels, axis=2)
    return Image.fromarray(np.concatenate([cube, ramp], axis=1), mode)
