"""`bridgeflow study`: trained, stopped, gone on with, told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgeflow.runtime.lock import FolderLock
from bridgeflow.study.runner import planned
from bridgeflow.study.settings import read_study

Call = Callable[..., Any]

STUDY = """
title: wide against narrow
recipe: depth/blocks
change:
  data: {size: 64, held_out: 16}
  source: {size: 16}
  target: {size: 16}
  network: {channels: [8, 8], blocks: 1, attention: []}
  training: {steps: 3, batch_size: 2, precision: fp32, samples: 1}
scoring: {count: 16, steps: [1, 2]}
arms:
  wide: {}
  narrow: {change: {network: {channels: [4, 4]}}}
claims:
  - {says: a wide network is better, better: wide, than: narrow, steps: 2}
"""


@pytest.fixture
def declared() -> Path:
    return Path("widths.yaml")


def test_it_is_trained_told_and_not_done_twice(bridgeflow: Call, declared: Path) -> None:
    declared.write_text(STUDY)
    listed = bridgeflow("study", str(declared), "--dry-run")
    assert (listed.code, listed.out.count("done"), len(listed.out.splitlines())) == (0, 0, 4)
    nothing = bridgeflow("study", str(declared), "--report")
    assert "none of the 4 runs is done." in nothing.err
    first = bridgeflow("study", str(declared), "--minutes", "0.000001")
    assert first.code == 0, first.err
    assert "1 of 4 runs are done." in first.out
    assert "undecided (not trained yet)" in first.out
    told = bridgeflow("study", str(declared), "--json")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    assert found["metric"] == "foreground_abs_rel"
    assert found["arms"]["wide"]["seeds"] == found["arms"]["narrow"]["seeds"] == [0, 1]
    assert found["arms"]["wide"]["weights"] > found["arms"]["narrow"]["weights"]
    assert found["claims"][0]["verdict"] in ("holds", "does not hold", "undecided")
    files = sorted(path.name for path in Path("studies/widths").iterdir())
    assert files == ["results", "runs", "study.json", "study.md", "study.png"]
    stamps = {path: path.stat().st_mtime_ns for path in Path("studies/widths/results").iterdir()}
    again = bridgeflow("study", str(declared))
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in Path("studies/widths/results").iterdir()} == stamps
    # What changes the runs makes them new; the others stay done.
    declared.write_text(STUDY.replace("channels: [4, 4]", "channels: [8, 4]"))
    listed = bridgeflow("study", str(declared), "--dry-run", "--json")
    assert [row["done"] for row in json.loads(listed.out)] == [True, False, True, False]


def test_an_arm_is_guided_by_its_own_early_weights(bridgeflow: Call, declared: Path) -> None:
    arms = STUDY.partition("arms:")[0] + "seeds: [0]\narms:\n  plain: {}\n  auto: {weak_step: 1, guidance: [1, 3]}\n"
    declared.write_text(arms)
    told = bridgeflow("study", str(declared), "--json")
    assert told.code == 0, told.err
    plain, auto = (
        json.loads(Path(f"studies/widths/results/{arm}-seed0.json").read_text())["points"] for arm in ("plain", "auto")
    )
    assert [(point["steps"], point["guidance"]) for point in auto] == [(1, 1.0), (1, 3.0), (2, 1.0), (2, 3.0)]
    assert auto[0]["figures"] == plain[0]["figures"], "the same weights without guidance"
    assert auto[1]["figures"] != auto[0]["figures"]
    declared.write_text(arms.replace("weak_step: 1", "weak_step: 3"))
    outcome = bridgeflow("study", str(declared), "--dry-run")
    assert "arm 'auto' of the study: weak_step=3 is no step before the last of 3" in outcome.err


def test_arms_that_are_scored_in_two_ways_are_trained_once(bridgeflow: Call, declared: Path) -> None:
    arms = "seeds: [0]\narms:\n  guided: {guidance: [2]}\n  unguided: {guidance: [1]}\n"
    declared.write_text(
        STUDY.partition("scoring:")[0] + "  null_rate: 0.1\nscoring: {count: 16, steps: [1, 2]}\n" + arms
    )
    told = bridgeflow("study", str(declared), "--json")
    assert told.code == 0, told.err
    (run,) = Path("studies/widths/runs").glob("*-seed0-*")
    assert run.name.startswith("guided-")
    guided, unguided = (
        json.loads(Path(f"studies/widths/results/{arm}-seed0.json").read_text()) for arm in ("guided", "unguided")
    )
    assert guided["points"][0]["figures"] != unguided["points"][0]["figures"]
    assert guided["seconds"] == unguided["seconds"]


def test_what_another_process_is_at_is_left_to_it(bridgeflow: Call, declared: Path) -> None:
    declared.write_text(STUDY)
    study = read_study(declared)
    wide = next(run for run in planned(study, Path("studies/widths")) if (run.arm, run.seed) == ("wide", 0))
    with FolderLock(Path("studies/widths/runs/.claims") / wide.trained, "the run in", print):
        told = bridgeflow("study", str(declared))
        assert told.code == 0, told.err
        assert "left to the process that is at it: wide-seed0." in told.err
        assert "3 of 4 runs are done." in told.out
    told = bridgeflow("study", str(declared))
    assert "4 of 4 runs are done." in told.out


def test_what_cannot_be_is_one_sentence(bridgeflow: Call, declared: Path) -> None:
    declared.write_text(STUDY)
    for text, code, part in (
        (STUDY.replace("channels: [4, 4]", "chanels: [4, 4]"), 2, "arm 'narrow' of the study: recipe 'depth/blocks': "),
        (STUDY.replace("recipe: depth/blocks", "recipe: depth/block"), 2, "Did you mean 'depth/blocks'?"),
        (STUDY.replace("title: wide against narrow", "titel: x"), 2, "Did you mean 'title'?"),
        ("[", 2, "widths.yaml"),
    ):
        declared.write_text(text)
        outcome = bridgeflow("study", str(declared), "--dry-run")
        assert (outcome.code, part in " ".join(outcome.err.split())) == (code, True), outcome.err
    declared.write_text(STUDY + "metric: nonsense\n")
    outcome = bridgeflow("study", str(declared), "--minutes", "0.000001")
    assert "the study's metric 'nonsense' is none that its task ranks results by: one of" in outcome.err
