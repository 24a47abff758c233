"""`bridgeflow data export`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Call = Callable[..., Any]


def test_rows_become_files_that_run_and_train_take(bridgeflow: Call, photos: Path) -> None:
    shutil.copytree(photos, "own")
    outcome = bridgeflow(
        "data", "export", "--task", "caption", "--data", "folder:own", "--split", "train", "--count", "20", "-o", "some"
    )
    assert outcome.code == 1
    assert "broken.png" in outcome.err
    assert "next: bridgeflow run --task caption some" in outcome.err
    written = outcome.out.split()
    assert written[-1] == "some/metadata.jsonl"
    lines = [json.loads(line) for line in Path("some/metadata.jsonl").read_text().splitlines()]
    assert {f"some/{line['file_name']}" for line in lines} == set(written[:-1])
    assert all(line["text"].startswith("picture ") for line in lines)
    assert bridgeflow("data", "check", "--task", "caption", "--data", "folder:some").code == 0


def test_words_as_the_source_are_for_training(bridgeflow: Call) -> None:
    outcome = bridgeflow(
        "data", "export", "--task", "t2i", "--count", "2", "-o", "scenes", "data.size=4", "data.held_out=2"
    )
    assert outcome.code == 0
    assert "2 rows of 2 scenes in scenes   next: bridgeflow train --task t2i --data folder:scenes" in outcome.err


LONG = (
    "a red cube left of a blue cone behind a green sphere in front of a small yellow cylinder on a grey floor at night"
)


def test_texts_that_are_cut_are_told_once(bridgeflow: Call) -> None:
    Path("photos").mkdir()
    for number in range(6):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(f"photos/{number}.png")
        Path(f"photos/{number}.txt").write_text(LONG.replace(" left", "\nleft") if number else "a red cube")
    for task, said in (("t2i", "source.codec.max_length="), ("caption", "target.codec.max_words=")):
        outcome = bridgeflow("data", "check", "--task", task, "--data", "folder:photos")
        assert outcome.code == 0
        assert len([line for line in outcome.err.splitlines() if "more than 24" in line and said in line]) == 1
        told = bridgeflow("data", "check", "--task", task, "--data", "folder:photos", "--json")
        facts = json.loads(told.out)
        assert said in facts["train"]["advice"][0]
        assert facts["held_out"]["advice"] == []
        assert told.err == ""
        wide = {"t2i": "source.codec.max_length=64", "caption": "target.codec.max_words=64"}[task]
        assert bridgeflow("data", "check", "--task", task, "--data", "folder:photos", wide).err == ""


def test_depth_out_of_range_is_told(bridgeflow: Call) -> None:
    scenes("millimetres", np.full((64, 64), 2500, np.float32))
    outcome = bridgeflow("data", "check", "--task", "depth", "--data", "folder:millimetres")
    assert outcome.code == 0
    assert "warning: 100% of the measured depth lies outside 0.5 to 60 m" in outcome.err
    scenes("metres", np.full((64, 64), 2.5, np.float32))
    assert bridgeflow("data", "check", "--task", "depth", "--data", "folder:metres").err == ""


def test_depth_without_a_pixel_at_the_models_size_is_unusable(bridgeflow: Call) -> None:
    scanlines = np.zeros((256, 256), np.float32)
    scanlines[::8] = 5
    scenes("lidar", scanlines)
    line = ("data", "check", "--task", "depth", "--data", "folder:lidar")
    outcome = bridgeflow(*line)
    assert outcome.code == 1
    # What is held out is scored at its own size, however sparse it is.
    assert ["0 of 3 rows" in line or "1 of 1 rows" in line for line in outcome.out.splitlines()[:2]] == [True, True]
    assert outcome.out.count("set target.coverage=0") == 3
    assert bridgeflow(*line, "target.coverage=0").code == 0


def scenes(folder: str, depth: np.ndarray) -> None:
    """Four pictures with one depth map."""
    for name in ("image", "depth"):
        Path(folder, name).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", depth.shape[::-1]).save(f"{folder}/image/{number}.png")
        np.save(f"{folder}/depth/{number}.npy", depth)
