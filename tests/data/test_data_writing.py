"""Rows written as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridgeflow.assembly import Assembly, assemble
from bridgeflow.config import recipe as recipes
from bridgeflow.data.writing import write_rows
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.blocks.render import render_scene


class Made:
    """Rows that are held in memory."""

    description = "three scenes"
    fingerprint = "made"

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.columns = tuple(rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


@pytest.fixture
def scenes() -> list[dict[str, Any]]:
    return [render_scene(3, "held_out", index, 64) for index in range(3)]


def assembly(task: str) -> Assembly:
    return assemble(recipes.load(f"{task}/blocks"))


def test_pictures_and_words_come_back_as_a_folder_of_the_same_rows(
    scenes: list[dict[str, Any]], tmp_path: Path
) -> None:
    own = assembly("caption")
    written = write_rows(Made(scenes), own.task, {}, 3, tmp_path / "scenes")
    assert (written.rows, written.broken) == (3, [])
    assert [path.name for path in written.files] == ["000000.png", "000001.png", "000002.png", "metadata.jsonl"]
    found = recipes.load("caption/blocks", data=f"folder:{tmp_path / 'scenes'}").data.open("train")
    read = {row["text"]: own.source.read(row["image"]) for row in (found[index] for index in range(len(found)))}
    assert read
    for scene in scenes:
        if scene["text"] in read:
            np.testing.assert_array_equal(read[scene["text"]], scene["image"])


def test_several_kinds_of_files_have_a_folder_each(scenes: list[dict[str, Any]], tmp_path: Path) -> None:
    own = assembly("depth")
    written = write_rows(Made(scenes), own.task, {}, 2, tmp_path)
    assert written.rows == 2
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert lines[1] == {"file_name": "image/000001.png", "depth_file_name": "depth/000001.png"}
    depth = own.target.read(tmp_path / lines[1]["depth_file_name"])
    np.testing.assert_allclose(depth, scenes[1]["depth"], atol=1e-3)


def test_columns_of_other_names_are_written_under_those_of_the_task(
    scenes: list[dict[str, Any]], tmp_path: Path
) -> None:
    renamed = [{"photo": row["image"], "text": row["text"]} for row in scenes]
    write_rows(Made(renamed), assembly("caption").task, {"image": "photo"}, 1, tmp_path)
    line = json.loads((tmp_path / "metadata.jsonl").read_text())
    assert line == {"file_name": "000000.png", "text": scenes[0]["text"]}


def test_a_row_that_cannot_be_read_is_passed_over_and_named(scenes: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [scenes[0], {**scenes[1], "image": tmp_path / "gone.png"}, scenes[2], {**scenes[0], "image": None}]
    seen: list[int] = []
    written = write_rows(
        Made(rows), assembly("caption").task, {}, 9, tmp_path / "out", lambda done, _: seen.append(done)
    )
    assert written.rows == 2
    assert len(written.broken) == 2
    assert "gone.png" in written.broken[0]
    assert "row 3: the column 'image' is empty" in written.broken[1]
    assert seen == [1, 2, 3, 4]
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 2


def test_nothing_is_written_over_and_nothing_unreadable_counts_as_done(
    scenes: list[dict[str, Any]], tmp_path: Path
) -> None:
    own = assembly("caption").task
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(BridgeflowError, match="holds something already"):
        write_rows(Made(scenes), own, {}, 1, tmp_path)
    with pytest.raises(BridgeflowError, match="no row of three scenes can be written"):
        write_rows(Made([{**scenes[0], "image": None}]), own, {}, 1, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(BridgeflowError, match="holds something already"):
        write_rows(Made(scenes), own, {}, 1, tmp_path / "file")
    with pytest.raises(BridgeflowError, match="cannot be written"):
        write_rows(Made(scenes), own, {}, 1, tmp_path / "file" / "below")
