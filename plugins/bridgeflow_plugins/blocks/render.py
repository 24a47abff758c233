"""A ray-caster in plain numpy: a scene to its image, its depth and the mask of its solids.

Four rays a pixel. Rays of the frame share a unit step along the viewing axis, so that the distance along a
ray IS the depth. Solids and their shadows are tested inside their projected bounding boxes alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridgeflow.data.rows import Split
from bridgeflow_plugins.blocks.scene import (
    FAR,
    HALF_WIDTH,
    Camera,
    Scene,
    Surroundings,
    box_slices,
    draw_scene,
    ray_steps,
)
from bridgeflow_plugins.blocks.solids import Array, Body, Vector, first_hit, hull, normal_at

RENDERER_VERSION = 1
"""Raised whenever the same scene number would give other pixels or words."""

PIGMENTS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.12),
    "green": (0.13, 0.62, 0.16),
    "blue": (0.12, 0.26, 0.90),
    "yellow": (0.97, 0.88, 0.12),
    "purple": (0.58, 0.16, 0.74),
    "cyan": (0.10, 0.80, 0.86),
    "orange": (0.98, 0.48, 0.06),
    "grey": (0.42, 0.42, 0.43),
}
"""Colours as displayed under full light, 0 to 1; their squares are the linear ones."""

_AMBIENT, _SKYLIGHT, _DIFFUSE, _GLOSS = 0.22, 0.22, 0.7, 0.3


class _Frame:
    """What is known of every ray: three planes of colour, depth, solid and light on the floor."""

    def __init__(self, scene: Scene, rays: int) -> None:
        camera = scene.camera
        self.camera = camera
        self.surroundings = scene.surroundings
        x, y, z = scene.surroundings.light
        self.light = (np.float32(x), np.float32(y), np.float32(z))
        self.rays = rays
        self.across = ray_steps(rays)[None, :]
        down = ray_steps(rays)[:, None]
        c, s = math.cos(camera.pitch), math.sin(camera.pitch)
        self.ahead = np.float32(c) - np.float32(s) * down
        self.up = np.float32(-s) - np.float32(c) * down
        with np.errstate(divide="ignore"):
            floor = np.float32(-camera.height) / self.up
        self.floor_depth = np.where((self.up < 0) & (floor < FAR), floor, np.float32(FAR))
        self.horizon = int((self.floor_depth >= FAR).sum())
        self.depth = np.repeat(self.floor_depth, rays, axis=1)
        self.solid = np.zeros((rays, rays), np.uint8)
        self.colour = np.empty((3, rays, rays), np.float32)


def render(scene: Scene, resolution: int) -> tuple[NDArray[np.uint8], Array, NDArray[np.uint8]]:
    """Image (H, W, 3) uint8, depth (H, W) float32 in metres, solids (H, W) uint8.

    Solids are 0 for the background and i for the i-th solid of the caption.
    Depth is measured along the viewing axis. Depth and solids are those of the upper left of a pixel's four
    rays, a quarter of a pixel from its centre, so that no pixel averages over an edge.
    """
    frame = _Frame(scene, 2 * resolution)
    bodies = [scene.camera.body(solid) for solid in scene.solids]
    _paint_background(frame)
    _paint_floor(frame, bodies)
    for number, (body, solid) in enumerate(zip(bodies, scene.solids, strict=True), start=1):
        others = [other for other in bodies if other is not body]
        _paint_solid(frame, body, PIGMENTS[solid.colour], number, others)
    planes = frame.colour
    rows = planes[:, 0::2] + planes[:, 1::2]
    linear = (rows[:, :, 0::2] + rows[:, :, 1::2]) * np.float32(0.25)
    shown = np.sqrt(np.minimum(linear, np.float32(1.0))) * np.float32(255.0) + np.float32(0.5)
    image = np.ascontiguousarray(shown.astype(np.uint8).transpose(1, 2, 0))
    depth = np.ascontiguousarray(frame.depth[0::2, 0::2])
    return image, depth, np.ascontiguousarray(frame.solid[0::2, 0::2])


def render_scene(seed: int, split: Split, index: int, resolution: int = 64) -> dict[str, Any]:
    """The row of one scene: `image`, `depth`, `text` and `objects`, drawn and rendered now."""
    scene = draw_scene(seed, split, index)
    image, depth, objects = render(scene, resolution)
    return {"image": image, "depth": depth, "text": scene.caption, "objects": objects}


def _paint_background(frame: _Frame) -> None:
    """A gradient from the horizon up, the same along a row."""
    rows = frame.horizon
    if rows == 0:
        return
    height = (np.arange(rows, 0, -1, dtype=np.float32) / np.float32(frame.rays * 0.3))[:, None]
    blend = np.minimum(height, np.float32(1.0))
    for plane, low, high in zip(frame.colour, frame.surroundings.horizon, frame.surroundings.zenith, strict=True):
        plane[:rows] = np.float32(low) + np.float32(high - low) * blend


def _paint_floor(frame: _Frame, bodies: list[Body]) -> None:
    """Texture, shadows and the haze into which the floor fades before it ends."""
    top = frame.horizon
    if top == frame.rays:
        return
    around = frame.surroundings
    depth = frame.floor_depth[top:]
    lit = np.ones((frame.rays - top, frame.rays), np.float32)
    for body in bodies:
        _cast_shadow(frame, body, lit)
    fill = _AMBIENT + _SKYLIGHT
    shade = (lit * np.float32(_DIFFUSE * around.light[2]) + np.float32(fill)) * _texture(frame, depth)
    haze = np.clip((depth - np.float32(FAR / 2)) / np.float32(FAR / 2), 0, 1)
    haze *= haze
    shade *= (np.float32(1.0) - haze) * np.float32(around.brightness)
    for plane, pigment, far in zip(frame.colour, around.floor, around.horizon, strict=True):
        np.multiply(shade, np.float32(pigment), out=plane[top:])
        plane[top:] += haze * np.float32(far)


def _texture(frame: _Frame, depth: Array) -> Array:
    """How light the floor is, around 1: patches that soften with distance, so that none is finer than a ray.

    (rows of the floor, rays) float32. Two triangle waves at right angles, steepened and clipped, multiplied.
    """
    around = frame.surroundings
    c, s = math.cos(around.turn) / around.tile, math.sin(around.turn) / around.tile
    ahead = depth * frame.ahead[frame.horizon :]
    ray = depth * depth * np.float32(2 * HALF_WIDTH / (frame.rays * frame.camera.height * around.tile))
    sharpness = np.minimum(np.float32(around.sharpness), np.float32(0.5) / ray)
    waves = []
    for along, aside, shift in ((c, s, around.shift[0]), (-s, c, around.shift[1])):
        wave = (depth * np.float32(along)) * frame.across
        wave += ahead * np.float32(aside) + np.float32(shift)
        wave -= np.floor(wave)
        wave -= np.float32(0.5)
        np.abs(wave, out=wave)
        wave -= np.float32(0.25)
        wave *= sharpness * np.float32(4.0)
        np.clip(wave, -1.0, 1.0, out=wave)
        waves.append(wave)
    waves[0] *= waves[1]
    waves[0] *= np.float32(around.contrast)
    waves[0] += np.float32(1.0)
    return waves[0]


def _cast_shadow(frame: _Frame, body: Body, lit: Array) -> None:
    """Darkens the part of the floor from which the solid hides the light."""
    points = hull(body)
    light = frame.surroundings.light
    points[:, :2] -= points[:, 2:] * (np.array(light[:2]) / light[2])
    points[:, 2] = 0.0
    rows, columns = box_slices(frame.camera.box(points), frame.rays)
    rows = slice(max(rows.start, frame.horizon), rows.stop)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    depth = frame.floor_depth[rows]
    origin = (depth * frame.across[:, columns], depth * frame.ahead[rows], np.float32(0.0))
    hidden = np.isfinite(first_hit(body, origin, frame.light))
    lit[rows.start - frame.horizon : rows.stop - frame.horizon, columns] *= ~hidden


def _paint_solid(
    frame: _Frame, body: Body, pigment: tuple[float, float, float], number: int, others: list[Body]
) -> None:
    rows, columns = box_slices(frame.camera.box(hull(body)), frame.rays)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    ray = (frame.across[:, columns], frame.ahead[rows], frame.up[rows])
    eye = np.float32(frame.camera.height)
    t = first_hit(body, (np.float32(0.0), np.float32(0.0), eye), ray)
    closer = t < frame.depth[rows, columns]
    t = np.where(closer, t, np.float32(0.0))
    point = (t * ray[0], t * ray[1], t * ray[2] + eye)
    shade, gloss = _shade(frame, body, point, ray, others)
    np.copyto(frame.depth[rows, columns], t, where=closer)
    np.copyto(frame.solid[rows, columns], np.uint8(number), where=closer)
    for plane, part in zip(frame.colour, pigment, strict=True):
        np.copyto(plane[rows, columns], shade * np.float32(part * part) + gloss, where=closer)


def _shade(frame: _Frame, body: Body, point: Vector, ray: Vector, others: list[Body]) -> tuple[Array, Array]:
    """Light on the surface and its gloss (Blinn-Phong) at points that the rays meet."""
    around: Surroundings = frame.surroundings
    x, y, z = frame.light
    normal = normal_at(body, point)
    facing = np.maximum(normal[0] * x + normal[1] * y + normal[2] * z, np.float32(0.0))
    for other in others:
        if _may_shade(frame.camera, around, other, body):
            facing *= ~np.isfinite(first_hit(other, point, frame.light))
    length = np.float32(1.0) / np.sqrt(ray[0] * ray[0] + (ray[1] * ray[1] + ray[2] * ray[2]))
    half = (x - ray[0] * length, y - ray[1] * length, z - ray[2] * length)
    along = normal[0] * half[0] + normal[1] * half[1] + normal[2] * half[2]
    square = np.minimum(along * along, np.float32(4.0)) / (half[0] * half[0] + half[1] * half[1] + half[2] * half[2])
    for _ in range(3):
        square = square * square
    brightness = np.float32(around.brightness)
    gloss = square * square * (facing > 0) * np.float32(_GLOSS)
    fill = np.float32(_AMBIENT) + np.float32(_SKYLIGHT) * normal[2]
    return (fill + np.float32(_DIFFUSE) * facing) * brightness, gloss


def _may_shade(camera: Camera, around: Surroundings, caster: Body, receiver: Body) -> bool:
    """False where the caster's shadow surely passes the receiver by, seen from above."""
    dx, dy = receiver.x - caster.x, receiver.y - caster.y
    flat = math.hypot(around.light[0], around.light[1])
    along = -(dx * around.light[0] + dy * around.light[1]) / flat
    aside = abs(dx * around.light[1] - dy * around.light[0]) / flat
    reach = caster.height * flat / around.light[2]
    radii = caster.footprint + receiver.footprint
    return aside < radii and -radii < along < reach + radii
