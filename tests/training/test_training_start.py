"""What a run does around its loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgeflow import recipe as recipes
from bridgeflow.cli.main import invoke
from bridgeflow.console import Progress
from bridgeflow.errors import BridgeflowError
from bridgeflow.exporting import figures_table
from bridgeflow.training.start import train
from bridgeflow_plugins.image_latent import ImageLatent


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
