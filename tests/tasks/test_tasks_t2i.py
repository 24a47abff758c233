"""What text to image says of its results on the blocks world, and what it leaves out elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridgeflow.assembly import assemble
from bridgeflow.config import recipe as recipes
from bridgeflow.data.pairs import Examples
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.evaluation.scoring import judge
from bridgeflow.task import Task
from bridgeflow_plugins.blocks import render_scene
from bridgeflow_plugins.image_latent.distances import Distances
from bridgeflow_tasks import t2i


@pytest.fixture(scope="module")
def task() -> Task:
    return assemble(recipes.load("t2i/blocks")).task


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [render_scene(21, "held_out", index) for index in range(60)]


@pytest.fixture(scope="module")
def examples(task: Task, rows: list[dict[str, Any]]) -> Examples:
    found = Examples(rows=rows)
    for row in rows:
        caption, picture = task.pair(row, np.random.default_rng(0))
        found.sources.append(caption)
        found.truths.append(picture)
    return found


def test_real_pictures_show_what_their_captions_name(task: Task, examples: Examples) -> None:
    figures = task.metrics(examples.truths, examples.truths, examples.sources, examples.rows)
    assert figures["object_accuracy"] >= 0.95
    assert figures["all_correct"] >= 0.9
    assert next(name for name in task.better if name in figures) == "object_accuracy"


def test_the_ceiling_is_what_the_judge_sees_in_real_pictures(task: Task, examples: Examples) -> None:
    columns = (examples.truths, examples.sources, examples.rows)
    expected = task.metrics(examples.truths, *columns)
    assert task.ceiling(*columns) == ("real pictures", expected)
    assert task.ceiling(examples.truths, ["a dog on a beach", *examples.sources[1:]], examples.rows) is None


def test_blank_pictures_show_nothing(task: Task, examples: Examples) -> None:
    blank = [np.full((64, 64, 3), 128, np.uint8)] * len(examples.rows)
    figures = task.metrics(blank, examples.truths, examples.sources, examples.rows)
    assert set(figures.values()) == {0.0}


def test_the_baseline_is_what_chance_gets_right(task: Task, examples: Examples) -> None:
    training = [render_scene(21, "train", index)["image"] for index in range(40)]
    name, pictures = task.baseline(examples.truths, examples.sources, iter(training)) or ("", [])
    assert name == "pictures of other captions"
    assert len(pictures) == 60
    assert pictures[41] is pictures[1]
    figures = task.metrics(pictures, examples.truths, examples.sources, examples.rows)
    assert figures["object_accuracy"] < 0.2
    assert figures["all_correct"] < 0.05


def test_every_score_has_an_interval(task: Task, examples: Examples) -> None:
    judged = judge(task, examples.truths, examples)
    for name in ("object_accuracy", "position", "one_object"):
        low, high = judged.scores.interval(name)
        assert 0.7 < low <= judged.scores.figures[name] <= high
    assert "one_object" not in judged.each[[len(row["text"].split()) > 4 for row in examples.rows].index(True)]


def test_captions_of_another_world_have_neither_scores_nor_baseline(task: Task, examples: Examples) -> None:
    captions = ["a dog on a beach", *examples.sources[1:]]
    assert task.metrics(examples.truths, examples.truths, captions, examples.rows) == {}
    assert task.baseline(examples.truths, captions, iter(examples.truths)) is None
    assert task.baseline(examples.truths, examples.sources, iter([])) is None


def with_sides(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture with something else to its left and right."""
    return np.pad(picture, ((0, 0), (side, side), (0, 0)), constant_values=255)


def test_pictures_are_judged_as_they_are_trained_on(
    task: Task, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20
    scenes, others = examples.truths[:count], examples.truths[-count:]
    wide = [with_sides(own, 4 * index) for index, own in enumerate(scenes)]
    seen: list[list[np.ndarray]] = []

    def noted(*given: Any) -> tuple[dict[str, float], list[str]]:
        seen.extend([given[0], given[1]])
        return {"fid": 1.0}, ["a note"]

    monkeypatch.setattr(t2i, "fid", noted)
    monkeypatch.setattr(task, "weights", {"inception": "a place"})
    columns = (wide, examples.sources[:count], examples.rows[:count])
    found = task.thorough(others, *columns)
    assert found is not None
    expected, squashed = (Distances(others, truths) for truths in (scenes, wide))
    notes = expected.notes
    assert dict(found.figures(range(count))) == pytest.approx(expected.figures(range(count)), rel=1e-9)
    right, wrong = (own.figures(range(count))["kd_efflite0"] for own in (expected, squashed))
    assert abs(wrong - right) > 0.1 * abs(right)
    assert dict(found.once) == {"fid": 1.0}
    assert found.notes == [*notes, "a note"]
    for own, truth in zip(seen[1], scenes, strict=True):
        np.testing.assert_array_equal(own, truth)
    # So are the pictures of a baseline, which come from the data.
    task.thorough([with_sides(own, 20) for own in others], *columns)
    for own, other in zip(seen[2], others, strict=True):
        np.testing.assert_array_equal(own, other)


def test_judges_are_loaded_when_they_are_named(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "weights", {})
    with pytest.raises(UsageError, match="no judge 'lpips' that takes weights: it has clip, inception"):
        task.judge_by({"lpips": "a.pth"})
    with pytest.raises(BridgeflowError, match="there is no file of weights"):
        task.judge_by({"inception": str(tmp_path / "absent.pth")})
    with pytest.raises(BridgeflowError, match="a CLIP cannot be loaded from"):
        task.judge_by({"clip": str(tmp_path)})
    task.judge_by({})
    assert task.weights == {}
