"""What a run does around its loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgeflow.cli.main import invoke


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
    assert "trained and saved, but not scored: no held-out row of" in told
    assert (tmp_path / "run/checkpoints/000002/meta.json").is_file()
    assert not (tmp_path / "run/evaluation.json").exists()
