"""Scenes: reproducible, disjoint between splits, and told truly by their captions."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from bridgeflow_plugins.blocks import COLOURS, RELATIONS, SHAPES, SIZES, parse_caption
from bridgeflow_plugins.blocks.scene import HALF_WIDTH, Scene, draw_scene

SCENES = 500


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(3, "train", index) for index in range(SCENES)]


def projected(scene: Scene) -> list[tuple[float, float, float]]:
    """(image x as a fraction of half the width, metres to the right, metres ahead) of each centre."""
    camera, seen = scene.camera, []
    for solid in scene.solids:
        right = solid.x * math.cos(camera.azimuth) + solid.y * math.sin(camera.azimuth)
        ahead = solid.y * math.cos(camera.azimuth) - solid.x * math.sin(camera.azimuth) + camera.distance
        tall = {"sphere": 2.0, "cube": 1.6, "cylinder": 1.8, "cone": 2.2}[solid.shape]
        centre = tall * {"small": 0.36, "large": 0.72}[solid.size] / 2
        depth = ahead * math.cos(camera.pitch) + (camera.height - centre) * math.sin(camera.pitch)
        seen.append((right / depth / HALF_WIDTH, right, ahead))
    return seen


@pytest.mark.parametrize(
    ("seed", "split", "index", "caption", "first", "camera"),
    [
        (
            0,
            "train",
            0,
            "a small green cube behind a small green cone",
            (-0.0425, -0.6072, 0.8252),
            (0.3116, 5.1287, 2.1651, 0.2344),
        ),
        (
            0,
            "held_out",
            0,
            "a large yellow cone left of a large orange sphere",
            (-1.329, 0.1929, 0.7329),
            (0.3267, 5.3421, 2.4933, 0.2948),
        ),
        (
            7,
            "train",
            123456,
            "a small red cylinder in front of a small red sphere and left of a large cyan cone",
            (-1.4826, -1.0887, 1.0478),
            (-0.0397, 5.0492, 2.5726, 0.3934),
        ),
    ],
)
def test_a_number_means_one_scene_on_every_machine(seed, split, index, caption, first, camera):
    scene = draw_scene(seed, split, index)
    assert scene.caption == caption
    solid, view = scene.solids[0], scene.camera
    assert (solid.x, solid.y, solid.yaw) == pytest.approx(first, abs=6e-5)
    assert (view.azimuth, view.distance, view.height, view.pitch) == pytest.approx(camera, abs=6e-5)


def test_the_same_number_twice_is_the_same_scene_and_another_is_not():
    assert draw_scene(0, "train", 17) == draw_scene(0, "train", 17)
    assert len({draw_scene(seed, "train", index) for seed in (0, 1) for index in (17, 18)}) == 4


def test_the_splits_share_no_scene():
    train = {draw_scene(0, "train", index) for index in range(200)}
    held_out = {draw_scene(0, "held_out", index) for index in range(200)}
    assert len(train) == len(held_out) == 200
    assert not {scene.solids for scene in train} & {scene.solids for scene in held_out}
    assert not {scene.camera for scene in train} & {scene.camera for scene in held_out}


def test_captions_name_the_solids_from_left_to_right(scenes):
    for scene in scenes:
        named = parse_caption(scene.caption)
        assert named is not None
        assert [m[:3] for m in named] == [(s.size, s.colour, s.shape) for s in scene.solids]
        across = [seen[0] for seen in projected(scene)]
        assert all(right - left > 0.0999 for left, right in pairwise(across))


def test_relations_agree_with_the_positions_and_are_never_in_doubt(scenes):
    for scene in scenes:
        (_, x, y), *others = projected(scene)
        for (_, right, ahead), named in zip(others, parse_caption(scene.caption)[1:], strict=True):
            sideways, apart = abs(right - x), abs(ahead - y)
            assert max(sideways, apart) > 1.299 * min(sideways, apart)
            expected = "left of" if sideways > apart else "behind" if y > ahead else "in front of"
            assert named.relation == expected


def test_every_word_is_reasonably_frequent(scenes):
    counts = Counter(len(scene.solids) for scene in scenes)
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > SCENES / 4
    named = [m for scene in scenes for m in parse_caption(scene.caption)]
    for words, field in ((SIZES, "size"), (COLOURS, "colour"), (SHAPES, "shape")):
        share = Counter(getattr(m, field) for m in named)
        assert min(share[word] for word in words) > 0.7 * len(named) / len(words)
    relations = Counter(m.relation for m in named if m.relation)
    assert min(relations[word] for word in RELATIONS) > 0.15 * relations.total()


def test_no_two_solids_of_a_scene_share_colour_and_shape(scenes):
    for scene in scenes:
        assert len({(s.colour, s.shape) for s in scene.solids}) == len(scene.solids)


def test_solids_stand_clear_of_each_other(scenes):
    gaps = []
    for scene in scenes:
        for i, one in enumerate(scene.solids):
            for other in scene.solids[:i]:
                gap = math.hypot(one.x - other.x, one.y - other.y)
                for solid in (one, other):
                    nominal = {"small": 0.36, "large": 0.72}[solid.size]
                    wide = {"sphere": 1.0, "cube": 0.8 * math.sqrt(2), "cylinder": 0.84, "cone": 1.05}
                    gap -= nominal * wide[solid.shape]
                gaps.append(gap)
    assert len(gaps) > 400
    assert np.min(gaps) > 0.0999
