"""`run --with`: tasks with more than one source, trained, run, cached and wrongly used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import bridgeflow as package
from bridgeflow_plugins.blocks.render import render_scene

Call = Callable[..., Any]

TINY = [
    "network.channels=[8,16]", "network.attention=[1]", "network.blocks=1", "network.heads=1", "data.size=16",
    "data.held_out=8", "training.steps=2", "training.batch_size=2", "training.evaluate=4", "training.samples=2",
    "training.validation=4", "training.precision=fp32", "source.size=16", "target.size=16",
    # A fresh network gives back what it starts from; that the words count is to be seen at once.
    "optimizer.learning_rate=0.05", "training.schedule.warmup=0",
]  # fmt: skip
RUN = ["run", "--task", "recolour", "--checkpoint", "own"]


@pytest.fixture
def run(made: Callable[..., Path]) -> Path:
    Path("scenes").mkdir()
    for number in range(2):
        Image.fromarray(render_scene(3, "held_out", number, 32)["image"]).save(f"scenes/{number}.png")
    return made("own", "train", "--task", "recolour", *TINY)


def test_words_beside_a_picture_change_its_result(bridgeflow: Call, run: Path) -> None:
    for name, words in (("red.png", "make the cube red"), ("blue.png", "make the cube blue")):
        outcome = bridgeflow(*RUN, "scenes/0.png", "--with", f"text={words}", "-o", name, "--trajectory", "flow.png")
        assert (outcome.code, outcome.out) == (0, f"{name}\n")
    red, blue = (np.asarray(Image.open(name)) for name in ("red.png", "blue.png"))
    assert red.shape == (16, 16, 3)
    assert not np.array_equal(red, blue)
    assert Path("flow.png").is_file()
    again = package.load("own")("scenes/0.png", conditions={"text": "make the cube red"})
    assert np.array_equal(again, red)


def test_many_pictures_have_one_condition_which_the_facts_tell(bridgeflow: Call, run: Path) -> None:
    outcome = bridgeflow(*RUN, "scenes", "--with", "text=make it red", "--json", "-o", "results")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert facts["with"] == {"text": "make it red"}
    assert len(list(Path("results").glob("*.png"))) == 2


def test_sums_keep_the_condition(bridgeflow: Call, run: Path) -> None:
    line = [*RUN, "scenes/0.png", "--with", "text=make it red"]
    assert bridgeflow(*line, "--plus", "scenes/1.png", "--minus", "scenes/1.png", "-o", "sum.png").code == 0
    assert bridgeflow(*line, "-o", "plain.png").code == 0
    assert np.array_equal(np.asarray(Image.open("sum.png")), np.asarray(Image.open("plain.png")))


def test_it_trains_on_cached_latents(bridgeflow: Call, run: Path) -> None:
    data = [own for own in TINY if own.startswith(("data.", "source.", "target."))]
    cached = bridgeflow("cache", "--task", "recolour", *data, "-o", "latents")
    assert cached.code == 0, cached.err
    assert bridgeflow("cache", "verify", "latents").code == 0
    with safe_open("latents/train/000000.safetensors", "pt") as shard:
        assert set(shard.keys()) == {"source.mean", "source.text.mean", "source.text.mask", "target.mean"}
    own = [override for override in TINY if override not in data]
    trained = bridgeflow("train", "--task", "recolour", "--data", "cache:latents", *own, "-o", "cached", "--json")
    assert trained.code == 0, trained.err
    assert "kept_psnr" in json.loads(trained.out)["evaluation"]["figures"]
    other = "source.conditions.text.codec.layer=2"
    refused = bridgeflow("train", "--task", "recolour", "--data", "cache:latents", other)
    assert refused.code == 2
    assert "source.conditions.text.codec.layer is 2 here and was 0" in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "this task needs 'text' beside its input: give it with --with text=VALUE"),
        (["--with", "txt=a"], "this task has no condition 'txt': it takes text."),
        (["--with", "text"], "--with 'text' names nothing: write --with NAME=VALUE."),
        (["--with", "=a"], "--with '=a' names nothing"),
        (["--with", "text=a", "--with", "text=b"], "--with text is given twice"),
    ],
)
def test_wrong_conditions_are_one_sentence(bridgeflow: Call, run: Path, more: list[str], said: str) -> None:
    outcome = bridgeflow(*RUN, "scenes/0.png", *more)
    assert outcome.code == 2
    assert said in " ".join(outcome.err.split())


def test_commands_tell_of_conditions(bridgeflow: Call, run: Path) -> None:
    told = bridgeflow("plugins", "info", "recolour").out
    assert "text (text)" in told
    exported = bridgeflow("data", "export", "--task", "recolour", *TINY[4:6], "-o", "rows", "--count", "2")
    assert exported.code == 0, exported.err
    assert "run --task recolour rows/image --with text=VALUE" in " ".join(exported.err.split())
    rows = [json.loads(line) for line in Path("rows/metadata.jsonl").read_text().splitlines()]
    assert sorted(rows[0]) == ["edited_file_name", "file_name", "text"]
    checked = bridgeflow("data", "check", "--task", "recolour", "--data", "folder:rows")
    assert checked.code == 0, checked.err
