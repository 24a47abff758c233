"""What a run does around its loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgeflow.cli.main import invoke
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import BridgeflowError
from bridgeflow.exporting import figures_table
from bridgeflow.runtime.console import Progress
from bridgeflow.training.start import train
from bridgeflow_plugins.image_latent import ImageLatent

Captured = pytest.CaptureFixture[str]


def test_a_run_whose_held_out_rows_are_all_broken_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "held_out"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(256, size=(72, 72, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photos/train/fine.png")
    Path("photos/held_out/broken.png").write_bytes(b"no picture")
    small = ["network.channels=[8,16]", "network.blocks=1", "network.attention=[]", "training.precision=fp32"]
    line = ["train", "--task", "superres", "--data", "folder:photos", "-o", "run", "training.steps=2", *small]
    assert invoke(line) == 0
    told = capsys.readouterr().err
    assert "trained and saved, but not scored: no row of" in told
    assert (tmp_path / "run/checkpoints/000002/meta.json").is_file()
    assert not (tmp_path / "run/evaluation.json").exists()


def test_figures_of_training_rows_are_called_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photos/alone.png")
    small = ["network.channels=[8]", "network.blocks=1", "network.attention=[]", "training.precision=fp32"]
    sizes = ["source.size=32", "target.size=32", "training.batch_size=1", "training.evaluate=2", "training.steps=1"]
    assert invoke(["train", "--task", "superres", "--data", "folder:photos", "-o", "run", *small, *sizes]) == 0
    told = capsys.readouterr()
    assert "samples and figures show training rows; to have others, raise data.held_out." in told.err
    assert "1 training examples, " in told.out
    assert "held-out examples" not in told.out
    written = json.loads(Path("run/evaluation.json").read_text())
    assert written["scored"]["split"] == "train"
    assert written["notes"] == ["nothing is held out, so these are examples that were trained on."]
    assert figures_table(written)[0].startswith("1 training examples, ")
    assert invoke(["eval", "--task", "superres", "--checkpoint", "run"]) == 1
    assert "score all rows with --split all, or raise data.held_out and train again." in capsys.readouterr().err
    assert invoke(["eval", "--task", "superres", "--checkpoint", "run", "--split", "all", "--quick"]) == 0


@pytest.mark.parametrize(
    ("mistake", "said"),
    [("network.heads=7", "no multiple of 7"), ("source.codec.path=no/such/folder", "folder' does not exist")],
)
def test_what_can_be_known_is_told_before_a_codec_is_fitted(
    mistake: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageLatent, "fit", lambda *given: pytest.fail("the codec was fitted before the mistake"))
    small = ["data.size=8", "data.held_out=8", f"data.cache={tmp_path}", mistake]
    with pytest.raises(BridgeflowError, match=said):
        train(recipes.load("t2i/blocks", small), device="cpu", console=Progress(quiet=True))


SMALL = ("network.channels=[8,16]", "network.blocks=1", "network.attention=[]", "training.precision=fp32")
SHORT = ("training.steps=2", "training.batch_size=2", "training.evaluate=0", "training.sample_every=0")


def pairs(folder: Path, depth: np.ndarray) -> None:
    for name in ("image", "depth"):
        (folder / name).mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", depth.shape[::-1], (40 * number, 90, 0)).save(folder / "image" / f"{number}.png")
        np.save(folder / "depth" / f"{number}.npy", depth)


def scattered() -> np.ndarray:
    return np.where(np.random.default_rng(0).random((256, 256)) < 0.05, np.float32(30), np.float32(0))


def scanlines() -> np.ndarray:
    depth = np.zeros((256, 256), np.float32)
    depth[::8] = 30
    return depth


@pytest.mark.parametrize("measured", [scattered, scanlines])
def test_sparse_depth_trains_on_its_measurements_or_says_what_to_set(
    measured: Callable[[], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs(tmp_path / "scans", measured())
    line = ["train", "--task", "depth", "--data", "folder:scans", *SMALL, *SHORT, "training.log_every=1"]
    assert invoke([*line, "-o", "dense"]) == 1
    assert "no pixel counts at the model's 64x64" in (told := capsys.readouterr().err)
    assert "set target.coverage=0" in told
    assert invoke([*line, "-o", "sparse", "target.coverage=0"]) == 0
    assert "coverage" not in capsys.readouterr().err
    rows = [json.loads(row) for row in (tmp_path / "sparse/metrics.jsonl").read_text().splitlines()]
    assert all(row["train/loss"] > 0.01 for row in rows)


def test_depth_out_of_range_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs(tmp_path / "centimetres", np.full((64, 64), 250, np.float32))
    assert invoke(["train", "--task", "depth", "--data", "folder:centimetres", "-o", "run", *SMALL, *SHORT]) == 0
    told = capsys.readouterr().err
    assert told.count("100% of the measured depth lies outside 0.5 to 60 m") == 1
    assert told.index("lies outside") < told.index("depth/folder")


def test_texts_that_are_cut_are_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (40 * number, 90, 0)).save(f"photos/{number}.png")
        Path(f"photos/{number}.txt").write_text("a red cube " * (12 if number else 1))
    codec = ["target.codec={name: pixels}", "target.size=32"]
    assert invoke(["train", "--task", "t2i", "--data", "folder:photos", "-o", "run", *SMALL, *SHORT, *codec]) == 0
    assert capsys.readouterr().err.count("have more than 24 tokens") == 1
