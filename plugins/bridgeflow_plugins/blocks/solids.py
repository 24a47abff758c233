"""The solids of the blocks world: their sizes, and where rays meet them.

Coordinates are those of the view: x to the right, y ahead along the floor, z up, in metres, with the origin
on the floor under the camera. Rays and points are triples of arrays that broadcast against each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vector = tuple[Any, Any, Any]
"""x, y and z, each a float32 array or number; the three broadcast."""

SHAPES = ("sphere", "cube", "cylinder", "cone")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "grey")
SIZES = ("small", "large")

EXTENT = {"small": 0.36, "large": 0.72}
"""Nominal radius in metres by size; a large solid is twice as wide and high as a small one."""

_NARROW = {"sphere": 1.0, "cube": 0.8, "cylinder": 0.84, "cone": 1.05}
_TALL = {"sphere": 2.0, "cube": 1.6, "cylinder": 1.8, "cone": 2.2}

_NEAR = 1e-3
"""Shortest way along a ray that counts, in metres: keeps a surface from shading itself."""


@dataclass(frozen=True)
class Body:
    """A solid's geometry in the view: the centre of its base at (x, y, 0)."""

    shape: str
    radius: float
    """Radius of sphere, cylinder and base of the cone; half the edge of the cube."""
    height: float
    x: float
    y: float
    yaw: float
    """Turn about the vertical axis, in radians."""

    @property
    def footprint(self) -> float:
        """Radius of the circle around the base as seen from above."""
        return self.radius * math.sqrt(2.0) if self.shape == "cube" else self.radius


def radius_of(shape: str, size: str) -> float:
    """Radius (half the edge for a cube) in metres."""
    return EXTENT[size] * _NARROW[shape]


def height_of(shape: str, size: str) -> float:
    """Height in metres."""
    return EXTENT[size] * _TALL[shape]


def hull(body: Body) -> NDArray[np.float64]:
    """Points (N, 3) whose convex hull contains the solid, closely."""
    if body.shape == "cube":
        reach, corners = body.footprint, 4
        start = body.yaw + math.pi / 4
    else:
        corners = 12
        reach, start = body.radius / math.cos(math.pi / corners), 0.0
    angles = start + np.arange(corners) * (2 * math.pi / corners)
    ring = np.stack([body.x + reach * np.cos(angles), body.y + reach * np.sin(angles)], axis=1)
    base = np.concatenate([ring, np.zeros((corners, 1))], axis=1)
    if body.shape == "cone":
        top = np.array([[body.x, body.y, body.height]])
    else:
        top = np.concatenate([ring, np.full((corners, 1), body.height)], axis=1)
    return np.concatenate([base, top])


def first_hit(body: Body, origin: Vector, direction: Vector) -> Array:
    """Where rays enter the solid: t with origin + t direction on its surface, infinity where they miss.

    Rays start outside the solid; what lies behind the origin counts as missed.
    """
    origin = (origin[0] - np.float32(body.x), origin[1] - np.float32(body.y), origin[2])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if body.shape == "cone":
            return _hit_cone(body, origin, direction)
        if body.shape == "sphere":
            enter, leave = _span_sphere(body, origin, direction)
        elif body.shape == "cylinder":
            enter, leave = _span_cylinder(body, origin, direction)
        else:
            enter, leave = _span_cube(body, origin, direction)
        return np.where((enter <= leave) & (leave > _NEAR), enter, np.float32(np.inf))


def _span_sphere(body: Body, origin: Vector, direction: Vector) -> tuple[Array, Array]:
    x, y, z = origin
    u, v, w = direction
    z = z - np.float32(body.radius)
    a = u * u + (v * v + w * w)
    b = x * u + (y * v + z * w)
    c = x * x + y * y + z * z - np.float32(body.radius**2)
    root = np.sqrt(b * b - a * c)
    return (-b - root) / a, (root - b) / a


def _slab(low: float, high: float, start: Array, step: Array) -> tuple[Array, Array]:
    first = (np.float32(low) - start) / step
    second = (np.float32(high) - start) / step
    return np.minimum(first, second), np.maximum(first, second)


def _span_cylinder(body: Body, origin: Vector, direction: Vector) -> tuple[Array, Array]:
    x, y, z = origin
    u, v, w = direction
    a = u * u + v * v
    b = x * u + y * v
    root = np.sqrt(b * b - a * (x * x + y * y - np.float32(body.radius**2)))
    low, high = _slab(0.0, body.height, z, w)
    return np.maximum((-b - root) / a, low), np.minimum((root - b) / a, high)


def _span_cube(body: Body, origin: Vector, direction: Vector) -> tuple[Array, Array]:
    c, s = np.float32(math.cos(body.yaw)), np.float32(math.sin(body.yaw))
    x, y, z = origin
    u, v, w = direction
    r = body.radius
    x_low, x_high = _slab(-r, r, c * x + s * y, c * u + s * v)
    y_low, y_high = _slab(-r, r, c * y - s * x, c * v - s * u)
    z_low, z_high = _slab(0.0, body.height, z, w)
    return np.maximum(np.maximum(x_low, y_low), z_low), np.minimum(np.minimum(x_high, y_high), z_high)


def _hit_cone(body: Body, origin: Vector, direction: Vector) -> Array:
    """The mantle alone: rays come from above the floor, so none enters through the base."""
    x, y, z = origin
    u, v, w = direction
    slope = np.float32((body.radius / body.height) ** 2)
    below = np.float32(body.height) - z
    a = u * u + (v * v - slope * w * w)
    b = x * u + (y * v + slope * below * w)
    c = x * x + y * y - slope * below * below
    root = np.sqrt(b * b - a * c)
    crossings = []
    for t in ((-b - root) / a, (root - b) / a):
        at = z + t * w
        on_mantle = (at >= 0) & (at <= np.float32(body.height)) & (t > _NEAR)
        crossings.append(np.where(on_mantle, t, np.float32(np.inf)))
    return np.minimum(crossings[0], crossings[1])


def normal_at(body: Body, point: Vector) -> Vector:
    """Outward unit normals of the solid at points on its surface."""
    x, y, z = point[0] - np.float32(body.x), point[1] - np.float32(body.y), point[2]
    inverse = np.float32(1.0 / body.radius)
    if body.shape == "sphere":
        return x * inverse, y * inverse, z * inverse - np.float32(1.0)
    if body.shape == "cylinder":
        top = z > np.float32(body.height * 0.999)
        side = np.where(top, np.float32(0.0), inverse)
        return x * side, y * side, top.astype(np.float32)
    if body.shape == "cone":
        slant = math.hypot(body.height, body.radius)
        ring = np.sqrt(x * x + y * y) + np.float32(1e-6)
        out = np.float32(body.height / slant) / ring
        return x * out, y * out, np.full_like(x, body.radius / slant)
    return _cube_normal(body, x, y, z)


def _cube_normal(body: Body, x: Array, y: Array, z: Array) -> Vector:
    c, s = np.float32(math.cos(body.yaw)), np.float32(math.sin(body.yaw))
    p, q = c * x + s * y, c * y - s * x
    top = z > np.float32(body.height * 0.999)
    first = (np.abs(p) >= np.abs(q)) & ~top
    second = ~first & ~top
    face_p, face_q = np.sign(p) * first, np.sign(q) * second
    return c * face_p - s * face_q, s * face_p + c * face_q, top.astype(np.float32)
