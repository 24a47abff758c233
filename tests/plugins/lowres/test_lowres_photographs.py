"""The photographs that super-resolution is trained on: which, how they are made smaller, what is held out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bridgeflow_plugins.lowres import photographs
from bridgeflow_plugins.lowres.photographs import PHOTOGRAPHS, halved, held_out_tiles, main, reduced


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Packages that hold what they should, without a network; the names of those that were fetched."""
    fetched: list[str] = []

    def run(command: list[str], cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "apt-get":
            fetched.append(command[-1])
            (cwd / f"{command[-1]}_1_all.deb").touch()
            return subprocess.CompletedProcess(command, 0, "", "")
        name = Path(command[2]).name.partition("_")[0]
        for path in PHOTOGRAPHS[name]:
            file = cwd / "unpacked" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(260, 520)).save(file)
        notice = cwd / "unpacked/usr/share/doc" / name / "copyright"
        notice.parent.mkdir(parents=True)
        notice.write_text("somebody")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(photographs.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(photographs.subprocess, "run", run)
    return fetched


def test_names_are_unique_and_one_in_six_is_held_out() -> None:
    wanted = list(photographs.photographs())
    assert len({one.name for one in wanted}) == len(wanted) == 42
    assert "EveningGlow" in {one.name for one in wanted}
    held_out = [one.name for one in wanted if one.held_out]
    assert 4 <= len(held_out) <= 10
    assert "Dune" in held_out, "the choice depends on the name alone"


def test_halving_takes_means_of_four() -> None:
    image = picture(5, 6)
    small = halved(image)
    assert small.shape == (2, 3, 3)
    assert np.array_equal(small[1, 2], np.rint(image[2:4, 4:6].mean((0, 1))))


def test_large_pictures_are_reduced_and_small_ones_left() -> None:
    assert reduced(picture(300, 600), 200).shape == (100, 200, 3)
    small = picture(30, 60)
    assert reduced(small, 200) is small


def test_tiles_lie_side_by_side_in_the_middle() -> None:
    image = picture(70, 41)
    found = dict(held_out_tiles(image, 32))
    assert list(found) == ["00-00", "01-00"]
    assert np.array_equal(found["01-00"], image[3 + 32 : 3 + 64, 4:36])


def test_fetching_writes_both_parts_and_is_done_once(
    tmp_path: Path, packages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    assert main([str(folder)]) == 0
    assert packages == list(PHOTOGRAPHS)
    wanted = list(photographs.photographs())
    train = sorted(path.stem for path in (folder / "train").iterdir())
    assert train == sorted(one.name for one in wanted if not one.held_out)
    assert Image.open(folder / "train" / f"{train[0]}.png").size == (260, 130)
    tiles = list((folder / "held_out").rglob("*.png"))
    assert len(tiles) == 2 * (len(wanted) - len(train))
    assert {Image.open(path).size for path in tiles} == {(128, 128)}
    assert "| Dune | held out | mate-backgrounds |" in (folder / "SOURCES.md").read_text()
    assert (folder / "copyright" / "palapeli-data.txt").read_text() == "somebody"
    assert f"{len(train)} photographs to train on" in capsys.readouterr().out

    packages.clear()
    assert main([str(folder)]) == 0
    assert packages == []
    (folder / "train" / "Aqua.png").unlink()
    assert main([str(folder)]) == 0
    assert packages == ["mate-backgrounds"]


def test_what_cannot_be_fetched_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(photographs.shutil, "which", lambda program: None)
    assert main([str(tmp_path / "photos")]) == 1
    assert "apt-get is not there" in capsys.readouterr().err
    monkeypatch.setattr(photographs.shutil, "which", lambda program: program)
    failed = subprocess.CompletedProcess([], 100, "", "W: first\nE: Unable to locate package lomiri")
    monkeypatch.setattr(photographs.subprocess, "run", lambda *_, **__: failed)
    assert main([str(tmp_path / "photos")]) == 1
    error = capsys.readouterr().err
    assert "cannot be fetched (E: Unable to locate package lomiri)" in error
    assert "apt-get update" in error


def test_a_package_that_lacks_a_photograph_is_named(
    tmp_path: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = photographs.subprocess.run

    def without_one(command: list[str], cwd: Path, **options: Any) -> Any:
        done = whole(command, cwd=cwd, **options)
        (cwd / "unpacked/usr/share/palapeli/collection/citrus-fruits.jpg").unlink(missing_ok=True)
        return done

    monkeypatch.setattr(photographs.subprocess, "run", without_one)
    assert main([str(tmp_path / "photos")]) == 1
    error = capsys.readouterr().err
    assert "the package palapeli-data holds no usr/share/palapeli/collection/citrus-fruits.jpg" in error


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"]])
def test_wrong_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: python -m bridgeflow_plugins.lowres.photographs FOLDER" in capsys.readouterr().err
