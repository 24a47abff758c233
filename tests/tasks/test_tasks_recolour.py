"""What recolouring says of its results: changes that the judge sees, and what was to stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bridgeflow.assembly import assemble
from bridgeflow.conditioned import Conditioned
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import BridgeflowError
from bridgeflow.task import Task
from bridgeflow_plugins.blocks.recolouring import RecolouredBlocks

COUNT = 40


@pytest.fixture(scope="module")
def task() -> Task:
    return assemble(recipes.load("recolour/blocks")).task


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    cache = str(tmp_path_factory.mktemp("cache"))
    held_out = RecolouredBlocks(seed=21, held_out=COUNT, workers=1, cache=cache).open("held_out")
    return [held_out[index] for index in range(COUNT)]


Examples = tuple[list[Any], list[Any]]


@pytest.fixture(scope="module")
def examples(task: Task, rows: list[dict[str, Any]]) -> Examples:
    pairs = [task.pair(row, np.random.default_rng(0)) for row in rows]
    return [source for source, _ in pairs], [truth for _, truth in pairs]


def score(task: Task, results: list[Any], examples: Examples) -> dict[str, float]:
    sources, truths = examples
    return task.metrics(results, truths, sources, [{}] * len(results))


def test_the_pictures_after_the_change_have_it_and_all_else(task: Task, examples: Examples) -> None:
    found = score(task, examples[1], examples)
    assert found["changes_made"] >= 0.95
    assert found["others_kept"] == 1
    assert found["psnr"] == 100
    assert found["kept_psnr"] == 60
    ceiling = task.ceiling(examples[1], examples[0], [])
    assert ceiling is not None
    assert ceiling[1]["changes_made"] == found["changes_made"]


def test_pictures_as_they_were_have_no_change_and_all_else(task: Task, examples: Examples) -> None:
    sources, truths = examples
    baseline = task.baseline(truths, sources, [])
    assert baseline is not None
    found = score(task, baseline[1], examples)
    assert found["changes_made"] == 0
    assert found["others_kept"] >= 0.95
    assert found["kept_psnr"] > 45


def test_other_scenes_keep_nothing(task: Task, examples: Examples) -> None:
    _, truths = examples
    found = score(task, [*truths[1:], truths[0]], examples)
    assert found["others_kept"] < 0.3
    assert found["changes_made"] < 0.2
    assert found["kept_psnr"] < 25


def test_words_that_are_none_of_the_blocks_world_are_left_to_the_pictures(task: Task, examples: Examples) -> None:
    sources = [Conditioned(own.start, {"text": "make it evening"}) for own in examples[0]]
    found = score(task, examples[1], (sources, examples[1]))
    assert set(found) == {"psnr", "kept_psnr"}
    assert task.ceiling(examples[1], sources, []) is None


def test_both_pictures_of_a_pair_have_one_size(task: Task, rows: list[dict[str, Any]]) -> None:
    row = {**rows[0], "edited": rows[0]["edited"][:32]}
    with pytest.raises(BridgeflowError, match="the picture has 64x64 pixels and the edited one 64x32"):
        task.pair(row, np.random.default_rng(0))


def test_one_of_several_sentences_is_drawn(task: Task, rows: list[dict[str, Any]]) -> None:
    row = {**rows[0], "text": ["make the cube red", "paint the cube red"]}
    drawn = {task.pair(row, np.random.default_rng(seed))[0].conditions["text"] for seed in range(20)}
    assert drawn == set(row["text"])
