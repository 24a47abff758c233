"""The cache of rendered scenes and the rows read from it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from bridgeflow.data.rows import Rows
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.blocks import Blocks, render_scene


class Calls(list):
    def __call__(self, done: int, total: int, what: str) -> None:
        self.append((done, total, what))


def blocks(folder: Path, **settings) -> Blocks:
    return Blocks(**{"cache": str(folder), "size": 70, "held_out": 5, "resolution": 32, "workers": 1} | settings)


def the_file(folder: Path) -> Path:
    (path,) = (folder / "blocks").iterdir()
    return path


def assert_same(row: dict, expected: dict) -> None:
    assert list(row) == list(expected)
    assert row["text"] == expected["text"]
    for name in ("image", "depth", "objects"):
        assert row[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(row[name], expected[name])


def test_rows_are_the_rendered_scenes(tmp_path):
    rows = blocks(tmp_path, seed=4).open("held_out")
    assert isinstance(rows, Rows)
    assert len(rows) == 5
    assert rows.columns == Blocks.known_columns == ("image", "depth", "text", "objects")
    assert rows.description == "5 scenes"
    for index in range(5):
        assert_same(rows[index], render_scene(4, "held_out", index, 32))
    assert_same(rows[np.int64(-1)], rows[4])
    assert sum(1 for _ in rows) == 5
    with pytest.raises(IndexError):
        rows[5]


def test_many_processes_make_what_one_makes(tmp_path):
    # 600 scenes of 32 pixels are three chunks, the last one short.
    calls = Calls()
    many = blocks(tmp_path / "many", size=600, workers=2).open("train", calls)
    assert calls == [(n, 600, "rendering blocks") for n in (256, 512, 600)]
    for index in (0, 255, 256, 511, 512, 599):
        assert_same(many[index], render_scene(0, "train", index, 32))
    blocks(tmp_path / "one", size=600).open("train")
    assert the_file(tmp_path / "many").read_bytes() == the_file(tmp_path / "one").read_bytes()


def test_the_second_opening_renders_nothing(tmp_path):
    calls = Calls()
    first = blocks(tmp_path).open("train", calls)
    assert calls == [(70, 70, "rendering blocks")]
    written = the_file(tmp_path).stat().st_mtime_ns
    second = blocks(tmp_path).open("train", calls)
    assert len(calls) == 1
    assert the_file(tmp_path).stat().st_mtime_ns == written
    assert first.fingerprint == second.fingerprint
    assert_same(second[69], first[69])


def test_the_first_rows_are_rendered_alone_unless_all_are_there(tmp_path):
    calls = Calls()
    first = blocks(tmp_path).open_first(3, calls)
    assert calls == [(3, 3, "rendering blocks")]
    whole = blocks(tmp_path).open("train", calls)
    for index in range(3):
        assert_same(first[index], whole[index])
    assert len(blocks(tmp_path).open_first(4, calls)) == 70
    assert len(calls) == 2
    assert len(blocks(tmp_path / "few", size=2).open_first(4)) == 2


def test_whatever_changes_rows_changes_the_fingerprint_and_the_file(tmp_path):
    base = blocks(tmp_path)
    variants = [base.open("train"), base.open("held_out"), blocks(tmp_path, seed=1).open("train")]
    variants += [blocks(tmp_path, resolution=16).open("train"), blocks(tmp_path, size=71).open("train")]
    assert len({rows.fingerprint for rows in variants}) == 5
    assert len(list((tmp_path / "blocks").iterdir())) == 5
    assert blocks(tmp_path, workers=2).open("train").fingerprint == variants[0].fingerprint


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "other"])
def test_a_damaged_file_is_rendered_again(tmp_path, damage):
    blocks(tmp_path).open("train")
    path = the_file(tmp_path)
    good = path.read_bytes()
    if damage == "other":
        blocks(tmp_path / "x", seed=9).open("train")
        bad = the_file(tmp_path / "x").read_bytes()
    else:
        bad = {"empty": b"", "cut": good[: len(good) // 2], "garbage": b"\x07" * len(good)}[damage]
    path.write_bytes(bad)
    calls = Calls()
    rows = blocks(tmp_path).open("train", calls)
    assert len(calls) == 1
    assert path.read_bytes() == good
    assert_same(rows[3], render_scene(0, "train", 3, 32))


def test_a_damaged_row_is_rendered_again_on_reading(tmp_path):
    opened = blocks(tmp_path).open("train")
    path = the_file(tmp_path)
    good = path.read_bytes()
    at = good.index(opened[7]["image"].tobytes())
    path.write_bytes(good[: at + 100] + bytes(200) + good[at + 300 :])
    calls = Calls()
    rows = blocks(tmp_path).open("train", calls)
    assert not calls
    for index in (6, 7, 8):
        assert_same(rows[index], render_scene(0, "train", index, 32))


def test_nothing_is_left_behind_when_rendering_is_interrupted(tmp_path):
    def interrupt(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            blocks(tmp_path, size=600, workers=workers).open("train", interrupt)
        assert list((tmp_path / "blocks").iterdir()) == []
    assert len(blocks(tmp_path).open("train")) == 70
    assert the_file(tmp_path).suffix == ".arrow"


def test_rows_are_copies_and_travel_to_other_processes(tmp_path):
    rows = blocks(tmp_path).open("train")
    rows[0]["image"][:] = 0
    assert_same(rows[0], render_scene(0, "train", 0, 32))
    assert_same(pickle.loads(pickle.dumps(rows))[3], rows[3])


def test_a_folder_that_cannot_be_written_to_is_named_with_the_mend(tmp_path):
    obstacle = tmp_path / "file"
    obstacle.write_text("not a folder")
    with pytest.raises(BridgeflowError) as caught:
        blocks(obstacle).open("train")
    message = str(caught.value)
    assert str(obstacle) in message
    assert "data.cache" in message
    assert "BRIDGEFLOW_CACHE" in message
    assert "\n" not in message


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path / "kept"))
    blocks(tmp_path, cache=None).open("held_out")
    assert the_file(tmp_path / "kept").name.startswith("held_out-5-32px-")


def test_abandoned_temporary_files_are_swept(tmp_path):
    import os

    blocks(tmp_path).open("train")
    path = the_file(tmp_path)
    old, young = path.with_name(path.name + ".1-aa.tmp"), path.with_name(path.name + ".2-bb.tmp")
    for stray in (old, young):
        stray.write_bytes(b"half")
    os.utime(old, (1, 1))
    path.unlink()
    blocks(tmp_path).open("train")
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, young.name])
