"""The ray-caster against closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bridgeflow_plugins.blocks import parse_caption, render_scene
from bridgeflow_plugins.blocks.render import render
from bridgeflow_plugins.blocks.scene import FAR, HALF_WIDTH, Camera, Scene, Solid, Surroundings, draw_scene
from bridgeflow_plugins.blocks.solids import SHAPES, Body, first_hit, normal_at

PLAIN = Surroundings(
    light=(-0.6, 0.0, 0.8),
    brightness=1.0,
    floor=(0.4, 0.4, 0.4),
    contrast=0.0,
    tile=1.0,
    sharpness=1.0,
    turn=0.0,
    shift=(0.0, 0.0),
    horizon=(0.5, 0.5, 0.5),
    zenith=(0.5, 0.5, 0.5),
)


def one(shape: str, camera: Camera, size: str = "large", yaw: float = 0.0) -> Scene:
    return Scene((Solid(size, "red", shape, 0.0, 0.0, yaw),), camera, PLAIN)


def down_of_rows(resolution: int) -> np.ndarray:
    """Image-plane y of the rays whose depth is kept: the upper of a pixel's two."""
    return ((np.arange(resolution) + 0.25) * 2 / resolution - 1) * HALF_WIDTH


@pytest.mark.parametrize(
    ("shape", "middle", "front", "nearest"),
    [
        # A level axis through the middle of the height: 5 m to the solid's own axis, less its half width.
        ("sphere", 0.72, 5 - 0.72, 5 - 0.72),
        ("cube", 0.576, 5 - 0.576, 5 - 0.576),
        ("cylinder", 0.648, 5 - 0.72 * 0.84, 5 - 0.72 * 0.84),
        ("cone", 0.792, 5 - 0.72 * 1.05 / 2, 5 - 0.72 * 1.05),
    ],
)
def test_depth_on_the_axis_is_the_distance_less_the_half_width(shape, middle, front, nearest):
    scene = one(shape, Camera(azimuth=0.0, distance=5.0, height=middle, pitch=0.0))
    _, depth, objects = render(scene, 128)
    assert objects[63, 63] == objects[64, 64] == 1
    assert depth[63:65, 63:65].mean() == pytest.approx(front, abs=0.01)
    assert depth[objects == 1].min() == pytest.approx(nearest, abs=0.02)


def test_nearest_point_of_a_sphere_seen_from_above():
    camera = Camera(azimuth=0.7, distance=4.0, height=0.72 + 3.0, pitch=math.atan2(3.0, 4.0))
    _, depth, objects = render(one("sphere", camera), 128)
    assert depth[objects == 1].min() == pytest.approx(5.0 - 0.72, abs=1e-3)
    radius = math.sqrt((objects == 1).sum() / math.pi) / 64 * HALF_WIDTH
    assert radius == pytest.approx(0.72 / math.sqrt(5.0**2 - 0.72**2), rel=0.01)


def test_floor_and_far_depth_follow_the_plane():
    camera = Camera(azimuth=0.2, distance=5.0, height=2.0, pitch=0.3)
    _, depth, objects = render(one("cone", camera, "small"), 64)
    down = down_of_rows(64)
    rise = math.sin(0.3) + math.cos(0.3) * down
    plane = np.where((rise > 0) & (2.0 / rise < FAR), 2.0 / rise, FAR)
    expected = np.broadcast_to(plane[:, None], depth.shape)
    np.testing.assert_allclose(depth[objects == 0], expected[objects == 0], rtol=1e-5)
    assert (depth[objects == 1] < expected[objects == 1]).all()
    assert 0 < (depth == FAR).mean() < 0.5


def test_depth_is_along_the_axis_not_along_the_ray():
    _, depth, objects = render(one("cube", Camera(0.0, 5.0, 0.576, 0.0)), 64)
    front = depth[objects == 1]
    assert front.max() == pytest.approx(5 - 0.576, abs=1e-4)
    assert front.min() == pytest.approx(5 - 0.576, abs=1e-4)


def test_the_shadow_falls_away_from_the_light_with_the_fill_light_left_in_it():
    camera = Camera(azimuth=0.0, distance=5.0, height=2.5, pitch=0.4)
    image, _, objects = render(one("sphere", camera), 64)
    # Light comes from the left at slope 0.8 / 0.6, so the shadow's middle is 0.72 * 0.75 to the right.
    across, ahead = 0.72 * 0.75 + 0.55, 5.0
    depth = ahead * math.cos(0.4) + 2.5 * math.sin(0.4)
    row = int(((2.5 * math.cos(0.4) - ahead * math.sin(0.4)) / depth / HALF_WIDTH + 1) * 32)
    right, left = (int((x / depth / HALF_WIDTH + 1) * 32) for x in (across, -across))
    assert objects[row, right] == objects[row, left] == 0
    dark, bright = (float(image[row, column, 0]) ** 2 for column in (right, left))
    assert dark / bright == pytest.approx(0.44 / (0.44 + 0.7 * 0.8), abs=0.02)


def test_one_solid_shades_another():
    camera = Camera(azimuth=0.0, distance=5.0, height=2.0, pitch=0.3)
    ball = Solid("small", "grey", "sphere", 0.8, 0.0, 0.0)
    tower = Solid("large", "red", "cylinder", -0.4, 0.0, 0.0)
    alone, _, _ = render(Scene((ball,), camera, PLAIN), 64)
    shaded, _, objects = render(Scene((tower, ball), camera, PLAIN), 64)
    on_ball = objects == 2
    assert on_ball.sum() > 40
    assert (shaded[on_ball] <= alone[on_ball]).all()
    darkened = (shaded[on_ball] < alone[on_ball]).mean()
    assert 0.1 < darkened < 0.9
    assert shaded[on_ball].mean() < 0.9 * alone[on_ball].mean()


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_end_on_the_surface_with_outward_normals(shape):
    body = Body(shape, radius=0.5, height=1.0, x=0.3, y=5.0, yaw=0.4)
    rng = np.random.default_rng(0)
    target = np.array([0.3, 5.0, 0.5]) + rng.uniform(-0.45, 0.45, (4000, 3))
    eye = np.array([0.0, 0.0, 2.0])
    ray = (target - eye).astype(np.float32)
    t = first_hit(body, tuple(eye.astype(np.float32)), tuple(ray.T))
    hit = np.isfinite(t)
    assert hit.mean() > 0.5
    point = (eye + t[hit, None] * ray[hit]).astype(np.float32)
    x, y, z = point[:, 0] - 0.3, point[:, 1] - 5.0, point[:, 2]
    p, q = math.cos(0.4) * x + math.sin(0.4) * y, math.cos(0.4) * y - math.sin(0.4) * x
    ring = np.hypot(x, y)
    outside = {
        "sphere": np.sqrt(ring**2 + (z - 0.5) ** 2) - 0.5,
        "cube": np.maximum(np.maximum(abs(p), abs(q)) - 0.5, np.abs(z - 0.5) - 0.5),
        "cylinder": np.maximum(ring - 0.5, np.abs(z - 0.5) - 0.5),
        "cone": ring - 0.5 * (1.0 - z),
    }[shape]
    np.testing.assert_allclose(outside, 0.0, atol=2e-4)
    normal = np.stack(normal_at(body, tuple(point.T)), axis=1)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1.0, atol=2e-3)
    assert ((normal * ray[hit]).sum(axis=1) < 1e-3).mean() > 0.995


def test_a_row_is_aligned_and_of_the_types_promised():
    row = render_scene(0, "train", 0, 48)
    assert row["image"].shape == (48, 48, 3)
    assert row["image"].dtype == np.uint8
    assert (row["depth"].shape, row["depth"].dtype) == ((48, 48), np.float32)
    assert (row["objects"].shape, row["objects"].dtype) == ((48, 48), np.uint8)
    again = render_scene(0, "train", 0, 48)
    assert all(np.array_equal(row[name], again[name]) for name in row)


def test_masks_hold_the_solids_of_the_caption_whole_and_mostly_seen():
    pigment = {"red": 0, "green": 1, "blue": 2}
    for index in range(150):
        row = render_scene(5, "train", index, 64)
        objects, named = row["objects"], parse_caption(row["text"])
        assert set(np.unique(objects)) == set(range(len(named) + 1))
        edge = np.concatenate([objects[0], objects[-1], objects[:, 0], objects[:, -1]])
        assert not edge.any()
        for place, mention in enumerate(named, start=1):
            inside = row["image"][objects == place].astype(float).mean(axis=0)
            if mention.colour in pigment:
                assert inside.argmax() == pigment[mention.colour]


def test_no_solid_hides_more_than_two_fifths_of_another():
    hidden = []
    for index in range(150):
        scene = draw_scene(6, "train", index)
        if len(scene.solids) == 1:
            continue
        _, _, together = render(scene, 64)
        for place, solid in enumerate(scene.solids, start=1):
            _, _, alone = render(dataclasses.replace(scene, solids=(solid,)), 64)
            hidden.append(1 - (together == place).sum() / (alone == 1).sum())
    # Judged with other rays than those of the picture: a small solid may differ by a pixel or two.
    assert max(hidden) < 0.45
    assert max(hidden) > 0.2


def test_the_scene_does_not_depend_on_the_resolution():
    coarse, fine = render_scene(0, "train", 9, 32), render_scene(0, "train", 9, 128)
    assert coarse["text"] == fine["text"]
    shrunk = fine["image"].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - coarse["image"]).mean() < 4
    assert (fine["objects"][::4, ::4] > 0).mean() == pytest.approx((coarse["objects"] > 0).mean(), abs=0.02)
