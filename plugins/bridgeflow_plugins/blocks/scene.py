"""Scenes of the blocks world: what stands where, seen from where, under which light.

A scene is drawn from (seed, split, index) with uniform numbers of PCG64 alone, so that it is the same on
every machine and does not depend on the resolution at which it is rendered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bridgeflow.data.rows import Split
from bridgeflow_plugins.blocks.caption import Mention, write_caption
from bridgeflow_plugins.blocks.solids import (
    COLOURS,
    SHAPES,
    SIZES,
    Array,
    Body,
    first_hit,
    height_of,
    hull,
    radius_of,
)

T = TypeVar("T")

HALF_WIDTH = 0.43
"""Tangent of half the angle of view, the same across and down."""
FAR = 12.0
"""Depth of whatever lies beyond the floor, in metres."""

SPLIT_NUMBERS: dict[Split, int] = {"train": 0, "held_out": 1}

_PLACES = (1.5, 1.6)
"""Half the width and half the depth, in metres, of the part of the floor where solids are put."""
_MARGIN = 1.0 / 32
"""Least distance of a solid from the edge of the frame, as a fraction of half its width."""
_APART = 0.1
"""Least sideways distance of two centres in the image, as a fraction of half its width."""
_CLEARER = 1.3
"""How many times the larger of the sideways distance and the depth difference exceeds the smaller."""
_SEEN = 0.6
"""Least part of a solid's silhouette that no other solid hides."""
_PROBE = 64
"""Rays across and down with which hiding is judged, at every resolution."""


class Box(NamedTuple):
    """A rectangle on the image plane at unit depth: x to the right, y down."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Solid:
    """A solid that stands on the floor of the world at (x, y), in metres."""

    size: str
    colour: str
    shape: str
    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks down at the middle of the world without roll."""

    azimuth: float
    """Turn about the vertical through the middle of the world, in radians."""
    distance: float
    """From the middle of the world, along the floor, in metres."""
    height: float
    """Above the floor, in metres."""
    pitch: float
    """Angle of the viewing axis below the horizontal, in radians."""

    def body(self, solid: Solid) -> Body:
        """The solid as seen in the view's coordinates."""
        c, s = math.cos(self.azimuth), math.sin(self.azimuth)
        return Body(
            shape=solid.shape,
            radius=radius_of(solid.shape, solid.size),
            height=height_of(solid.shape, solid.size),
            x=c * solid.x + s * solid.y,
            y=c * solid.y - s * solid.x + self.distance,
            yaw=solid.yaw - self.azimuth,
        )

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """View points (N, 3) to (N, 3): right and down on the image plane at unit depth, then the depth."""
        c, s = math.cos(self.pitch), math.sin(self.pitch)
        drop = self.height - points[:, 2]
        depth = points[:, 1] * c + drop * s
        return np.stack([points[:, 0] / depth, (drop * c - points[:, 1] * s) / depth, depth], axis=1)

    def box(self, points: NDArray[np.float64]) -> Box:
        """The smallest rectangle around the projection of view points (N, 3)."""
        seen = self.project(points)
        low, high = seen.min(axis=0).tolist(), seen.max(axis=0).tolist()
        return Box(low[0], low[1], high[0], high[1])


@dataclass(frozen=True)
class Surroundings:
    """Light, floor and background. Colours are linear, 0 to 1."""

    light: tuple[float, float, float]
    """Unit vector towards the light, in the view's coordinates."""
    brightness: float
    floor: tuple[float, float, float]
    contrast: float
    """How far the texture lightens and darkens the floor, as a fraction."""
    tile: float
    """Edge of a patch of the texture, in metres."""
    sharpness: float
    """1 for a soft texture, large for a checker."""
    turn: float
    """Angle of the texture, in radians."""
    shift: tuple[float, float]
    """Where the texture begins, in tiles."""
    horizon: tuple[float, float, float]
    zenith: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """One to three solids in the order of the caption, and how they are seen."""

    solids: tuple[Solid, ...]
    camera: Camera
    surroundings: Surroundings

    @property
    def caption(self) -> str:
        """The canonical sentence of the scene."""
        return write_caption(mentions(self.solids, self.camera))


class _Draws:
    """Uniform numbers, taken from the generator many at a time."""

    def __init__(self, seed: int, split: Split, index: int) -> None:
        sequence = np.random.SeedSequence([seed, SPLIT_NUMBERS[split], index])
        self._generator = np.random.Generator(np.random.PCG64(sequence))
        self._left: list[float] = []

    def uniform(self, low: float, high: float) -> float:
        if not self._left:
            self._left = self._generator.random(64).tolist()
        return low + (high - low) * self._left.pop()

    def choose(self, choices: tuple[T, ...]) -> T:
        return choices[int(self.uniform(0, len(choices)))]


def draw_scene(seed: int, split: Split, index: int) -> Scene:
    """The scene of this number: the same on every machine."""
    draws = _Draws(seed, split, index)
    count = draws.choose((1, 2, 3))
    while True:
        kinds = _draw_kinds(draws, count)
        surroundings = _draw_surroundings(draws)
        for _ in range(40):
            camera = _draw_camera(draws)
            solids = [_place(draws, *kind) for kind in kinds]
            bodies = [camera.body(solid) for solid in solids]
            if not _stand_apart(bodies):
                continue
            order = _order(bodies, camera)
            if order is None:
                continue
            boxes = [camera.box(hull(body)) for body in bodies]
            if all(map(_inside, boxes)) and _all_seen(bodies, boxes, camera):
                return Scene(tuple(solids[i] for i in order), camera, surroundings)


def mentions(solids: tuple[Solid, ...], camera: Camera) -> list[Mention]:
    """How the caption names solids that are in its order already."""
    bodies = [camera.body(solid) for solid in solids]
    named = []
    for solid, body in zip(solids, bodies, strict=True):
        relation = None if body is bodies[0] else relation_between(bodies[0], body)
        named.append(Mention(solid.size, solid.colour, solid.shape, relation))
    return named


def relation_between(subject: Body, other: Body) -> str:
    """How the subject, which is the one further left in the image, stands to the other."""
    ahead = subject.y - other.y
    if abs(ahead) <= abs(subject.x - other.x):
        return "left of"
    return "behind" if ahead > 0 else "in front of"


def _draw_kinds(draws: _Draws, count: int) -> list[tuple[str, str, str]]:
    kinds: list[tuple[str, str, str]] = []
    while len(kinds) < count:
        size, colour, shape = draws.choose(SIZES), draws.choose(COLOURS), draws.choose(SHAPES)
        if all((colour, shape) != taken[1:] for taken in kinds):
            kinds.append((size, colour, shape))
    return kinds


def _place(draws: _Draws, size: str, colour: str, shape: str) -> Solid:
    wide, deep = _PLACES
    x, y = draws.uniform(-wide, wide), draws.uniform(-deep, deep)
    return Solid(size, colour, shape, x, y, draws.uniform(0, math.pi / 2))


def _draw_camera(draws: _Draws) -> Camera:
    distance, height = draws.uniform(4.5, 5.6), draws.uniform(1.7, 3.0)
    aim = draws.uniform(0.1, 1.0)
    return Camera(
        azimuth=draws.uniform(-0.4, 0.4),
        distance=distance,
        height=height,
        pitch=math.atan2(height - aim, distance),
    )


def _draw_surroundings(draws: _Draws) -> Surroundings:
    bearing = draws.choose((-1.0, 1.0)) * draws.uniform(0.5, 1.35)
    elevation = draws.uniform(0.75, 1.1)
    level = draws.uniform(0.34, 0.6)
    warmth = draws.uniform(-0.1, 0.14)
    green = draws.uniform(-0.03, 0.03)
    sky = draws.uniform(0.45, 0.75)
    blue = draws.uniform(-0.06, 0.2)
    dark = draws.uniform(0.45, 0.9)
    horizon = (sky * (1 - blue), sky, sky * (1 + blue))
    return Surroundings(
        light=(
            math.cos(elevation) * math.sin(bearing),
            -math.cos(elevation) * math.cos(bearing),
            math.sin(elevation),
        ),
        brightness=draws.uniform(0.9, 1.1),
        floor=(level * (1 + warmth), level * (1 + green), level * (1 - warmth)),
        contrast=draws.uniform(0.1, 0.45),
        tile=draws.uniform(0.5, 1.2),
        sharpness=draws.choose((1.0, 1.0, 12.0)),
        turn=draws.uniform(0, math.pi / 2),
        shift=(draws.uniform(0, 1), draws.uniform(0, 1)),
        horizon=horizon,
        zenith=(horizon[0] * dark, horizon[1] * dark, horizon[2] * (dark + 0.1)),
    )


def _stand_apart(bodies: list[Body]) -> bool:
    for i, one in enumerate(bodies):
        for other in bodies[:i]:
            gap = math.hypot(one.x - other.x, one.y - other.y) - one.footprint - other.footprint
            if gap < 0.1:
                return False
    return True


def _order(bodies: list[Body], camera: Camera) -> list[int] | None:
    """Indices from left to right in the image; None where order or relations are open to doubt."""
    centres = camera.project(np.array([[body.x, body.y, body.height / 2] for body in bodies]))
    across = centres[:, 0].tolist()
    order = sorted(range(len(bodies)), key=across.__getitem__)
    for left, right in pairwise(order):
        if across[right] - across[left] < _APART * HALF_WIDTH:
            return None
    subject = bodies[order[0]]
    for i in order[1:]:
        sideways, ahead = abs(subject.x - bodies[i].x), abs(subject.y - bodies[i].y)
        if max(sideways, ahead) < _CLEARER * min(sideways, ahead):
            return None
    return order


def _inside(box: Box) -> bool:
    limit = HALF_WIDTH * (1 - _MARGIN)
    return min(box.left, box.top) >= -limit and max(box.right, box.bottom) <= limit


def _all_seen(bodies: list[Body], boxes: list[Box], camera: Camera) -> bool:
    """True where enough of every solid is visible, judged with a fixed grid of rays."""
    overlap = any(
        a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )
    if not overlap:
        return True
    steps = ray_steps(_PROBE)
    eye = (np.float32(0.0), np.float32(0.0), np.float32(camera.height))
    c, s = math.cos(camera.pitch), math.sin(camera.pitch)
    nearest = np.full((_PROBE, _PROBE), np.inf, np.float32)
    owner = np.zeros((_PROBE, _PROBE), np.int8)
    whole = []
    for number, (body, box) in enumerate(zip(bodies, boxes, strict=True), start=1):
        rows, columns = box_slices(box, _PROBE)
        down = steps[rows, None]
        ray = (steps[None, columns], c - s * down, -s - c * down)
        t = first_hit(body, eye, ray)
        whole.append(int(np.isfinite(t).sum()))
        closer = t < nearest[rows, columns]
        np.copyto(nearest[rows, columns], t, where=closer)
        owner[rows, columns][closer] = number
    seen = np.bincount(owner.ravel(), minlength=len(bodies) + 1)[1:].tolist()
    return all(part >= _SEEN * total for part, total in zip(seen, whole, strict=True))


@lru_cache(maxsize=8)
def ray_steps(count: int) -> Array:
    """Where evenly spaced rays cross the image plane at unit depth, along one axis: (count,) float32."""
    return (((np.arange(count) + 0.5) * (2.0 / count) - 1.0) * HALF_WIDTH).astype(np.float32)


def box_slices(box: Box, count: int) -> tuple[slice, slice]:
    """Rows and columns of a grid of count x count rays over the frame that a box touches."""

    def reach(low: float, high: float) -> slice:
        scale = count / (2 * HALF_WIDTH)
        first = math.floor((low + HALF_WIDTH) * scale)
        last = math.ceil((high + HALF_WIDTH) * scale)
        return slice(max(0, min(first, count)), max(0, min(last, count)))

    return reach(box.top, box.bottom), reach(box.left, box.right)
