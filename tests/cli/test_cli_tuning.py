"""`bridgeflow tune-sampler`: what it writes, and what takes it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.runtime import durable

Call = Callable[..., Any]

TINY = [
    "network.channels=[8,8]", "network.blocks=1", "network.attention=[]", "training.precision=fp32", "data.size=64",
    "data.held_out=40", "training.steps=3", "training.batch_size=2", "training.evaluate=0", "training.samples=1",
    "source.size=16", "target.size=16",
]  # fmt: skip
TUNE = ["tune-sampler", "--task", "depth", "--count", "16", "--most", "4"]


@pytest.fixture
def run(made: Callable[..., Path]) -> Path:
    return made("runs/own", "train", "--task", "depth", *TINY) / "checkpoints" / "000003"


def test_the_choice_becomes_the_default_and_goes_back(bridgeflow: Call, run: Path) -> None:
    before = json.loads((run / "meta.json").read_text())
    shown = bridgeflow(*TUNE, "--dry-run")
    assert shown.code == 0, shown.err
    assert "16 held-out examples, foreground_abs_rel (lower is better)" in shown.out
    assert "on 16 other examples, chosen" in shown.out
    assert json.loads((run / "meta.json").read_text()) == before
    assert not (run / "tuning.json").exists()
    told = bridgeflow(*TUNE, "--json", "--tolerance", "1")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    after = json.loads((run / "meta.json").read_text())
    assert after["sampling"] == found["chosen"]["sampling"] != before["sampling"]
    assert after["tuned"]["before"] == before["sampling"]
    assert {key: value for key, value in after.items() if key not in ("sampling", "tuned")} == {
        key: value for key, value in before.items() if key != "sampling"
    }
    assert json.loads((run / "tuning.json").read_text())["chosen"] == found["chosen"]
    assert (run / "tuning.png").is_file()
    # The checkpoint is whole for everything else, and samples so.
    assert Pipeline.open(run).sampling.model_dump(mode="json") == found["chosen"]["sampling"]
    assert found["chosen"]["cost"] == 1
    scored = json.loads(bridgeflow("eval", "--task", "depth", "--count", "2", "--json").out)
    assert scored["network_evaluations"] == 1
    further = bridgeflow("train", "--task", "depth", "--resume", "training.steps=4")
    assert further.code == 0
    assert "sampling was tuned for the weights so far" in " ".join(further.err.split())
    # A second tuning keeps what was there before the first.
    assert bridgeflow(*TUNE, "--tolerance", "0", "--checkpoint", str(run)).code == 0
    assert json.loads((run / "meta.json").read_text())["tuned"]["before"] == before["sampling"]
    tried = bridgeflow("tune-sampler", "--task", "depth", "--undo", "--dry-run", "--checkpoint", str(run))
    assert "would sample with euler, 2 steps again" in tried.err
    assert "tuned" in json.loads((run / "meta.json").read_text())
    undone = bridgeflow("tune-sampler", "--task", "depth", "--undo", "--checkpoint", str(run))
    assert undone.code == 0
    assert "samples with euler, 2 steps again" in undone.err
    assert json.loads((run / "meta.json").read_text()) == before


def test_what_cannot_be_is_one_sentence(bridgeflow: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "meta.json").read_bytes()

    def full(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write_whole", full)
    for line, code, part in (
        ([*TUNE, "--guidance", "1,two"], 2, "--guidance '1,two' is no list of numbers, such as 1,2,3."),
        ([*TUNE, "--guidance", "2"], 2, "--guidance needs a model trained with null_rate above 0"),
        ([*TUNE, "--metric", "nonsense"], 2, "--metric 'nonsense' is none that task 'depth' ranks results"),
        (["tune-sampler", "--task", "depth", "--undo"], 1, "was not tuned: there is nothing to undo."),
        (["tune-sampler", "--task", "caption", "--checkpoint", "runs/own"], 2, "was trained for task 'depth'"),
        (["tune-sampler", "--task", "depth", "--count", "3"], 2, "3 is not in the range x>=16"),
        (TUNE, 1, "cannot be written (No space left on device): make its folder writable"),
    ):
        outcome = bridgeflow(*line)
        assert part in " ".join(outcome.err.split()), (line, outcome.err)
        assert outcome.code == code, (line, outcome.err)
    assert (run / "meta.json").read_bytes() == before


def test_few_rows_are_told(bridgeflow: Call) -> None:
    few = bridgeflow("train", "--task", "depth", *TINY, "data.held_out=9", "-o", "runs/few")
    assert few.code == 0
    outcome = bridgeflow(*TUNE, "--checkpoint", "runs/few")
    assert "9 held-out rows can be read, and tuning needs 16: raise data.held_out." in outcome.err


def test_a_meta_that_was_changed_by_hand_is_told(bridgeflow: Call, run: Path) -> None:
    meta = json.loads((run / "meta.json").read_text())
    meta["sampling"]["solver"]["method"] = "newton"
    (run / "meta.json").write_text(json.dumps(meta))
    outcome = bridgeflow("eval", "--task", "depth", "--count", "2")
    assert outcome.code == 1
    assert "is damaged (the sampling of meta.json does not fit): use another one." in outcome.err
