from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bridgeflow import registry
from bridgeflow.assembly import Assembly, assemble
from bridgeflow.config import layers
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.task import Task
from bridgeflow_plugins.blocks import render_scene
from bridgeflow_tasks.superres import turned, zoomed_cut

TASKS = ("caption", "depth", "recolour", "superres", "t2i")


def assembled(name: str, *overrides: str) -> Assembly:
    return assemble(recipes.load(name, overrides))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def scene() -> Mapping[str, Any]:
    return render_scene(0, "train", 3)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_declares_what_it_needs(name: str) -> None:
    task: type[Task] = registry.load("task", name)
    assert task.default_recipe == f"{name}/blocks"
    assert f"{name}/folder" in layers.recipe_names(name)
    assert set(task.columns) <= {"image", "text", "depth", "edited"}
    assert task.summary


@pytest.mark.parametrize("name", TASKS)
def test_both_recipes_give_bridges_that_fit(name: str, scene: Mapping[str, Any]) -> None:
    for recipe in ("blocks", "folder"):
        assembly = assembled(f"{name}/{recipe}")
        bridge = assembly.build_bridge()
        assert bridge.target_spec == assembly.target.latent
        source, _ = assembly.task.pair({**scene, "edited": scene["image"]}, rng())
        assert assembly.task.split(source)[0] is not None


def test_depth_pair_must_share_its_aspect(scene: Mapping[str, Any], tmp_path: Path) -> None:
    task = assembled("depth/blocks").task
    image, depth = task.pair(scene, rng())
    assert image.shape[:2] == depth.shape == (64, 64)
    wide = tmp_path / "wide.npy"
    np.save(wide, np.ones((40, 80), np.float32))
    with pytest.raises(BridgeflowError, match=r"wide\.npy: the picture is 64x64 but its depth 80x40"):
        task.pair({**scene, "depth": wide}, rng())


def test_depth_result_takes_the_size_of_its_picture() -> None:
    task = assembled("depth/blocks").task
    result = np.linspace(1, 4, 64, dtype=np.float32)[None].repeat(64, 0)
    joined = task.join([result], np.zeros((90, 200, 3), np.uint8))
    assert joined.shape == (90, 200)
    assert joined[0, 0] == pytest.approx(1, abs=0.02)
    assert joined[-1, -1] == pytest.approx(4, abs=0.02)


def test_depth_metrics_score_the_foreground_apart() -> None:
    task = assembled("depth/blocks").task
    truth = np.full((4, 4), 2.0, np.float32)
    objects = np.zeros((4, 4), np.uint8)
    objects[:2] = 1
    result = truth.copy()
    result[:2] = 3.0
    figures = task.metrics([result], [truth], [None], [{"objects": objects}])
    assert figures["foreground_abs_rel"] == pytest.approx(0.5)
    assert figures["abs_rel"] == pytest.approx(0.25)
    assert figures["delta1"] == pytest.approx(0.5)
    name, constant = task.baseline([truth] * 3, [None] * 3, [truth, 3 * truth]) or ("", [])
    assert name == "constant map"
    assert len(constant) == 3
    assert np.allclose(constant[0], 4.0)


def test_superres_source_is_the_same_cut_made_small() -> None:
    assembly = assembled("superres/blocks")
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (120, 200, 3)).copy()
    places = set()
    for seed in range(6):
        low, cut = assembly.task.pair({"image": ramp}, np.random.default_rng(seed))
        assert low.shape == (16, 16, 3)
        assert cut.shape == (64, 64, 3)
        left = int(cut[0, 0, 0])
        places.add(left)
        assert abs(low[8, 8, 0] - (left + 8 * 4 + 1.5)) <= 1
    assert len(places) > 3, "each draw cuts elsewhere"


def test_superres_cuts_show_a_picture_at_many_scales() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (120, 200, 3))
    slopes = []
    for seed in range(40):
        cut = zoomed_cut(ramp, (32, 32), 3.0, np.random.default_rng(seed))
        assert cut.shape == (32, 32, 3)
        slopes.append((int(cut[16, 26, 0]) - int(cut[16, 6, 0])) / 20)
    assert min(slopes) < 1.1
    assert 2.6 < max(slopes) <= 3.1
    assert 1.5 < np.median(slopes) < 2, "the logarithm of the scale is uniform"
    same = zoomed_cut(ramp, (32, 32), 1.0, rng())
    assert int(same[0, 31, 0]) - int(same[0, 0, 0]) == 31
    assert not np.shares_memory(same, ramp)
    # No further than the picture reaches: 120 rows, made 1.2 times smaller at most.
    wide = [zoomed_cut(ramp, (100, 100), 9.0, np.random.default_rng(seed)) for seed in range(20)]
    assert all(cut.shape == (100, 100, 3) for cut in wide)
    assert max(int(cut[0, 90, 0]) - int(cut[0, 10, 0]) for cut in wide) <= 1.2 * 80 + 1


def test_superres_turns_cuts_all_eight_ways() -> None:
    corner = np.zeros((4, 4, 3), np.uint8)
    corner[0, 1] = 255
    ways = {turned(corner, way).tobytes() for way in range(8)}
    assert len(ways) == 8
    assert np.array_equal(turned(corner, 0), corner)
    task = assembled("superres/blocks", "options.turns=true").task
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    drawn = {task.pair({"image": ramp}, np.random.default_rng(seed))[1].tobytes() for seed in range(30)}
    assert len(drawn) == 4, "a ramp looks the same upside down"
    with pytest.raises(UsageError, match=r"64x32 does not suit: make source\.size and target\.size square"):
        assembled("superres/blocks", "options.turns=true", "source.size=[32,64]", "target.size=[32,64]")


def test_superres_cuts_large_tiles_where_the_source_names_them() -> None:
    task = assembled("superres/blocks", "source.tile=40").task
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    pieces = task.split(picture)
    assert [piece.shape for piece in pieces] == [(40, 40, 3)] * 4
    whole = task.join([piece.repeat(4, 0).repeat(4, 1) for piece in pieces], picture)
    assert np.array_equal(whole, picture.repeat(4, 0).repeat(4, 1))


def test_superres_baseline_is_bicubic_and_psnr_is_right(scene: Mapping[str, Any]) -> None:
    task = assembled("superres/blocks").task
    low, truth = task.pair(scene, rng())
    name, enlarged = task.baseline([truth], [low], []) or ("", [])
    assert name == "bicubic"
    reference = np.asarray(Image.fromarray(low).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(enlarged[0].astype(int) - reference.astype(int)).mean() < 0.5
    off = np.clip(truth.astype(int) + 10, 0, 255).astype(np.uint8)
    flat = np.full_like(truth, 100)
    assert task.metrics([np.full_like(truth, 110)], [flat], [], [])["psnr"] == pytest.approx(28.13, abs=0.01)
    assert task.metrics([off], [truth], [], [])["psnr"] >= 28.13


def test_superres_scores_pictures_as_they_are() -> None:
    """Whole, or the centre of the size of a cut: neither zoomed nor turned, whatever training does."""
    task = assembled("superres/blocks", "options.turns=true", "options.zoom=3").task
    picture = np.random.default_rng(0).integers(0, 256, (103, 130, 3), dtype=np.uint8)
    for seed in range(3):
        low, whole = task.held_out_pair({"image": picture}, np.random.default_rng(seed), whole=True)
        assert np.array_equal(whole, picture[1:101, 1:129])
        assert low.shape == (25, 32, 3)
        low, centre = task.held_out_pair({"image": picture}, np.random.default_rng(seed))
        assert np.array_equal(centre, picture[19:83, 33:97])
        assert low.shape == (16, 16, 3)
    wide = assembled("superres/blocks", "options.scored_pixels=4000").task
    _, part = wide.held_out_pair({"image": picture}, rng(), whole=True)
    assert part.shape == (56, 68, 3)
    with pytest.raises(BridgeflowError, match="a picture of 100x3 cannot be made 4 times smaller"):
        task.held_out_pair({"image": np.zeros((3, 100, 3), np.uint8)}, rng(), whole=True)


def test_superres_baseline_enlarges_each_picture_by_itself() -> None:
    task = assembled("superres/blocks").task
    picture = np.random.default_rng(0).integers(0, 256, (100, 128, 3), dtype=np.uint8)
    pairs = [task.held_out_pair({"image": own}, rng(), whole=True) for own in (picture, picture[:64, :80])]
    _, enlarged = task.baseline([true for _, true in pairs], [low for low, _ in pairs], []) or ("", [])
    assert [own.shape for own in enlarged] == [(100, 128, 3), (64, 80, 3)]


def test_depth_counts_what_its_options_say() -> None:
    truth = np.full((40, 50), 5.0, np.float32)
    truth[:10], truth[20, 20], truth[21, 21] = 100.0, 0.0005, np.nan
    result = np.where(truth > 50, 200.0, 5.5).astype(np.float32)
    figures = assembled("depth/blocks").task.metrics([result], [truth], [None], [{}])
    assert figures["abs_rel"] == pytest.approx((500 * 1.0 + 1498 * 0.1) / 1998, rel=1e-5)
    near = assembled("depth/blocks", "options.farthest=80").task
    assert near.metrics([result], [truth], [None], [{}])["abs_rel"] == pytest.approx(0.1, rel=1e-5)
    capped = assembled("depth/blocks", "options.farthest=100").task
    assert capped.metrics([result], [truth], [None], [{}])["abs_rel"] == pytest.approx(149.8 / 1998, rel=1e-5)
    told = assembled("depth/blocks", "options.alignment=disparity", "options.crop=garg", "options.farthest=80").task
    more = told.thorough([result], [truth], [None], [{}])
    assert more is not None
    assert list(more.notes) == [
        "the disparity of each map was brought to its truth's by scale and shift; truths from 0.001 m to 80 m count, "
        "inside the crop 'garg'."
    ]


def test_superres_refuses_what_is_too_small_to_cut_or_too_large_to_enlarge() -> None:
    task = assembled("superres/blocks").task
    with pytest.raises(BridgeflowError, match="smaller than the cuts to train on"):
        task.pair({"image": np.zeros((30, 100, 3), np.uint8)}, rng())
    with pytest.raises(BridgeflowError, match="4000x3000 pixels, more than the 500,000"):
        task.split(np.zeros((3000, 4000, 3), np.uint8))


def test_one_of_several_captions_is_drawn(scene: Mapping[str, Any]) -> None:
    task = assembled("t2i/blocks").task
    row = {**scene, "text": ["one", "two", "three"]}
    drawn = {task.pair(row, np.random.default_rng(seed))[0] for seed in range(20)}
    assert drawn == {"one", "two", "three"}
    with pytest.raises(BridgeflowError, match="list of captions is empty"):
        task.pair({**scene, "text": []}, rng())


@pytest.mark.parametrize("task", ["t2i", "caption"])
@pytest.mark.parametrize("bad", [None, "", "   "])
def test_row_is_usable_where_one_of_its_captions_is(scene: Mapping[str, Any], task: str, bad: Any) -> None:
    own = assembled(f"{task}/blocks").task
    words = 0 if task == "t2i" else 1
    for place in range(3):
        captions = [bad, bad]
        captions.insert(place, "two")
        assert {own.pair({**scene, "text": captions}, np.random.default_rng(seed))[words] for seed in range(9)} == {
            "two"
        }
    with pytest.raises(BridgeflowError):
        own.pair({**scene, "text": [bad, bad]}, rng())


def test_caption_metrics_and_baseline() -> None:
    task = assembled("caption/blocks").task
    figures = task.metrics(["a red cube", "a cone"], ["a red cube", "a green cone"], [], [])
    assert figures["exact_match"] == 0.5
    assert 0.8 < figures["token_f1"] < 1
    assert task.baseline(["x"], [None], ["a", "b", "b"]) == ("most frequent caption", ["b"])
