"""The pictures that the judge learns from: scenes with what stands in them, blobs that are no solids, and what becomes
of pictures on their way: blur, noise, the blocks of a JPEG, other light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.data.rows import Split
from bridgeflow_plugins.blocks.judge_network import MIDDLE, SIDE, UNCLEAR
from bridgeflow_plugins.blocks.render import PIGMENTS, render
from bridgeflow_plugins.blocks.scene import HALF_WIDTH, Scene, draw_scene
from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES

MOST = 3
"""Solids in a scene, and blobs in a picture of blobs."""
IGNORED = -1
"""Class of a solid that is not learned from."""
FOCAL = SIDE / (2 * HALF_WIDTH)
"""Pixels that a metre takes at a depth of one metre."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Things:
    """Up to MOST things in each of N pictures: numbers of colour, shape and size, int64 (N, MOST), IGNORED where there
    is nothing to learn; `middle` in pixels and `place` in metres, (N, MOST, 2), and `radius` as it appears, in pixels,
    (N, MOST), all NaN where there is no further thing."""

    colour: Tensor
    shape: Tensor
    size: Tensor
    middle: Tensor
    place: Tensor
    radius: Tensor

    def rows(self, index: Tensor) -> Things:
        """Those of the chosen pictures."""
        return Things(*(getattr(self, own.name)[index] for own in fields(self)))

    def followed_by(self, others: Things) -> Things:
        """Those of more pictures."""
        return Things(*(torch.cat([getattr(self, own.name), getattr(others, own.name)]) for own in fields(self)))

    @classmethod
    def none(cls, count: int) -> Things:
        """Those of pictures that show nothing."""
        return _columns([[]] * count)


class Scenes(NamedTuple):
    """Pictures, uint8 (N, 64, 64, 3), and what they show."""

    pictures: Tensor
    things: Things

    def rows(self, index: Tensor) -> Scenes:
        """The chosen ones."""
        return Scenes(self.pictures[index], self.things.rows(index))


class Thing(NamedTuple):
    """One of Things."""

    colour: int
    shape: int
    size: int
    middle: tuple[float, float]
    place: tuple[float, float]
    radius: float


def things_of(scene: Scene) -> list[Thing]:
    """The solids of a scene."""
    things = []
    for solid in scene.solids:
        body = scene.camera.body(solid)
        x, y, depth = scene.camera.project(np.array([[body.x, body.y, body.height / 2]]))[0].tolist()
        things.append(
            Thing(
                COLOURS.index(solid.colour),
                SHAPES.index(solid.shape),
                SIZES.index(solid.size),
                (SIDE / 2 + FOCAL * x, SIDE / 2 + FOCAL * y),
                (body.x, body.y - MIDDLE),
                FOCAL * body.radius / depth,
            )
        )
    return things


def drawn_scenes(seed: int, split: Split, count: int) -> Scenes:
    """The first scenes of a seed."""
    pictures = np.empty((count, SIDE, SIDE, 3), np.uint8)
    things = []
    for index in range(count):
        scene = draw_scene(seed, split, index)
        pictures[index] = render(scene, SIDE)[0]
        things.append(things_of(scene))
    return Scenes(torch.from_numpy(pictures), _columns(things))


def blob_scenes(seed: int, count: int) -> Scenes:
    """Floors of scenes with coloured blobs on them, soft or ragged, or with nothing on them (a third)."""
    rng = np.random.default_rng([seed, 1])
    pictures = np.empty((count, SIDE, SIDE, 3), np.uint8)
    things = []
    for index in range(count):
        scene = draw_scene(seed, "held_out", index)
        floor: Floats = render(replace(scene, solids=()), SIDE)[0].astype(np.float32) / np.float32(255)
        blobs = int(rng.integers(1, MOST + 1)) if index % 3 else 0
        painted = [_paint_blob(floor, rng) for _ in range(blobs)]
        pictures[index] = (floor.clip(0, 1) * 255).round().astype(np.uint8)
        things.append(painted)
    return Scenes(torch.from_numpy(pictures), _columns(things))


def _paint_blob(picture: Floats, rng: np.random.Generator) -> Thing:
    """Lays a blob over a picture (H, W, 3) in [0, 1]."""
    x, y = rng.uniform(8, SIDE - 8), rng.uniform(14, SIDE - 10)
    radius, colour = rng.uniform(4, 13), int(rng.integers(len(COLOURS)))
    ragged = rng.random() < 0.5
    softness = rng.uniform(0.6, 2.0) if ragged else radius * rng.uniform(0.25, 0.5)
    swing = rng.uniform(0.22, 0.4) if ragged else rng.uniform(0.0, 0.3)
    down, across = np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5
    dx, dy = across - x, (down - y) * rng.uniform(0.75, 1.3)
    angle = np.arctan2(dy, dx)
    edge = np.full_like(angle, radius)
    waves = rng.uniform(0.3, 1.0, 4)
    for number, part in enumerate(waves / waves.sum(), start=2):
        edge += radius * swing * 2 * part * np.sin(number * angle + rng.uniform(0, 2 * math.pi)).astype(np.float32)
    cover = 0.5 - 0.5 * np.tanh((np.hypot(dx, dy) - edge) / softness)
    light = rng.uniform(0.55, 1.0) + rng.uniform(-0.35, 0.35) * (dx * math.cos(radius) + dy * math.sin(radius)) / radius
    pigment = np.array(PIGMENTS[COLOURS[colour]], np.float32)
    picture += cover[..., None] * (light.clip(0.2, 1.2)[..., None] * pigment - picture)
    return Thing(colour, UNCLEAR, IGNORED, (x, y), (math.nan, math.nan), radius)


def _columns(things: list[list[Thing]]) -> Things:
    empty = Thing(IGNORED, IGNORED, IGNORED, (math.nan, math.nan), (math.nan, math.nan), math.nan)
    padded = [own + [empty] * (MOST - len(own)) for own in things]
    return Things(*(torch.tensor([[getattr(one, name) for one in own] for own in padded]) for name in Thing._fields))


# -- what becomes of pictures ------------------------------------------------------------------------------------------


def disturbed(scenes: Scenes, random: torch.Generator) -> tuple[Tensor, Things]:
    """Pictures (B, 3, 64, 64) in [-1, 1] as a generator may give them, and what is to be learned from them.

    Half are mirrored. A solid that blur takes the shape from becomes UNCLEAR.
    """
    count = len(scenes.pictures)
    pictures = scenes.pictures.permute(0, 3, 1, 2).float() / 255
    pictures, things = _mirrored(pictures, scenes.things, torch.rand(count, generator=random) < 0.5)
    draw = torch.rand(count, 5, generator=random)
    sigma = torch.where(draw[:, 0] < 0.3, 0.3 + 1.1 * draw[:, 1], torch.zeros(count))
    sigma = torch.where(draw[:, 0] > 0.88, 2 + 3 * draw[:, 1], sigma)
    pictures = blurred(pictures, sigma)
    ratio = sigma[:, None] / things.radius
    solid = (things.shape >= 0) & (things.shape != UNCLEAR)
    shape = things.shape.masked_fill(solid & (ratio > 0.35), IGNORED).masked_fill(solid & (ratio > 0.6), UNCLEAR)
    pictures = torch.where((draw[:, 2] < 0.6)[:, None, None, None], _other_light(pictures, random), pictures)
    coarse = compressed(pictures, 0.02 + 0.13 * draw[:, 3])
    pictures = torch.where((draw[:, 3] < 0.3)[:, None, None, None], coarse, pictures)
    strength = torch.where(draw[:, 4] < 0.4, 0.12 * draw[:, 4], torch.zeros(count))
    pictures = pictures + strength[:, None, None, None] * torch.randn(pictures.shape, generator=random)
    return pictures.clamp(0, 1) * 2 - 1, replace(things, shape=shape)


def no_scenes(pictures: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Pictures (count, 3, 64, 64) in [-1, 1] that show nothing: averages of 4 of the pictures (N, 64, 64, 3) uint8
    given, white noise, and noise of low frequency."""
    chosen = torch.randint(len(pictures), (count, 4), generator=random)
    averages = pictures[chosen].float().mean(1).permute(0, 3, 1, 2) / 127.5 - 1
    noise = torch.randn(count, 3, SIDE, SIDE, generator=random) * (0.1 + torch.rand(count, 1, 1, 1, generator=random))
    small = torch.randn(count, 3, 6, 6, generator=random) * 0.5
    smooth = F.interpolate(small, (SIDE, SIDE), mode="bicubic")
    kind = torch.arange(count)[:, None, None, None] % 3
    made = torch.where(kind == 0, averages, torch.where(kind == 1, noise, smooth))
    return made.clamp(-1, 1)


def _mirrored(pictures: Tensor, things: Things, chosen: Tensor) -> tuple[Tensor, Things]:
    pictures = torch.where(chosen[:, None, None, None], pictures.flip(-1), pictures)
    middle, place = things.middle.clone(), things.place.clone()
    middle[chosen, :, 0] = SIDE - middle[chosen, :, 0]
    place[chosen, :, 0] *= -1
    return pictures, replace(things, middle=middle, place=place)


def blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """(B, C, H, W) under a Gaussian of a standard deviation of its own each, sigma (B,) in pixels; 0 leaves it."""
    count, channels = pictures.shape[:2]
    reach = max(1, math.ceil(3 * float(sigma.max())))
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(steps**2) / (2 * sigma[:, None].clamp(min=1e-2) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(pictures.reshape(1, count * channels, *pictures.shape[2:]), [reach] * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    return F.conv2d(flat, kernel[:, None, None, :], groups=count * channels).reshape(pictures.shape)


def _other_light(pictures: Tensor, random: torch.Generator) -> Tensor:
    """A little brighter, duller or tinted."""
    count = len(pictures)
    tint = 1 + 0.08 * (2 * torch.rand(count, 3, 1, 1, generator=random) - 1)
    gain = 1 + 0.15 * (2 * torch.rand(count, 1, 1, 1, generator=random) - 1)
    contrast = 1 + 0.2 * (2 * torch.rand(count, 1, 1, 1, generator=random) - 1)
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return ((pictures - mean) * contrast + mean) * gain * tint


def compressed(pictures: Tensor, step: Tensor) -> Tensor:
    """(B, C, H, W) in [0, 1] with the cosine coefficients of every 8 x 8 block rounded, as JPEG does.

    `step` (B,) is the width of rounding of the lowest coefficient; that of the highest is four times as wide.
    """
    count, channels, height, width = pictures.shape
    place = torch.arange(8, dtype=torch.float32)
    basis = torch.cos(math.pi / 8 * (place[None, :] + 0.5) * place[:, None]) * 0.5
    basis[0] /= math.sqrt(2)
    blocks = pictures.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    found = basis @ blocks @ basis.T
    width_of = step[:, None, None] * (1 + 3 * (place[:, None] + place[None, :]) / 14)
    width_of = width_of[:, None, None, None]
    found = (found / width_of).round() * width_of
    return (basis.T @ found @ basis).transpose(3, 4).reshape(pictures.shape)
