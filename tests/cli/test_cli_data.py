"""`bridgeflow data export`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
