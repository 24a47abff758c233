"""Several results as one: the mean and the spread, of `run` and `eval`, to the files they leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bridgeflow
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.inference.spread import check_drawn, check_poolable, heat, pooled
from bridgeflow_plugins.depth import Depth
from bridgeflow_plugins.image_latent import ImageLatent

TINY = [
    "network.channels=[8,8]", "network.blocks=1", "network.attention=[]", "training.precision=fp32", "data.size=32",
    "data.held_out=8", "training.steps=2", "training.batch_size=2", "training.evaluate=0", "training.samples=1",
    "source.size=16", "target.size=16",
]  # fmt: skip


def test_mean_and_spread_of_depth_are_of_metres() -> None:
    modality = Depth(Depth.Options())
    found = pooled(modality, [np.full((2, 3), value, np.float32) for value in (1.0, 2.0, 6.0)])
    assert np.allclose(found.mean, 3.0)
    assert np.allclose(found.spread, np.sqrt(7.0))


def test_mean_and_spread_of_pictures_are_of_levels() -> None:
    modality = ImageLatent(ImageLatent.Options(size=8))
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 20, np.uint8)
    found = pooled(modality, [black, grey])
    assert found.mean.dtype == np.uint8
    assert (found.mean == 10).all()
    assert np.allclose(found.spread, np.sqrt(200))
    assert found.spread.shape == (4, 4)


def test_equal_results_say_nothing() -> None:
    same = pooled(Depth(Depth.Options()), [np.ones((2, 2), np.float32)] * 3).spread
    with pytest.raises(BridgeflowError, match="all 3 results are the same, since this model draws nothing"):
        check_drawn([same, same], 3)
    # One input among others may be sure.
    check_drawn([same, same + 1], 3)
    check_drawn([], 1)


def test_words_have_no_mean_and_one_result_no_spread() -> None:
    with pytest.raises(UsageError, match="no mean"):
        check_poolable(bridgeflow.modalities["text"](bridgeflow.modalities["text"].Options()), 8)
    with pytest.raises(UsageError, match="--samples 2"):
        check_poolable(Depth(Depth.Options()), 1)


def test_heat_goes_from_black_to_bright() -> None:
    shown = np.asarray(heat(np.array([[0.0, 0.5, 1.0]])), int).sum(axis=-1)[0]
    assert shown[0] < 10
    assert shown[0] < shown[1] < shown[2]
    assert np.asarray(heat(np.zeros((2, 2)))).max() < 10
    assert np.array_equal(np.asarray(heat(np.ones((1, 1)), 2.0)), np.asarray(heat(np.array([[0.5, 1.0]])))[:, :1])


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    from bridgeflow.cli.main import invoke

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path / "cache"))

    def run(*words: object) -> tuple[int, str, str]:
        code = invoke([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


def test_run_and_eval_state_a_spread(call: Callable[..., Any]) -> None:
    for name, sigma in (("sure", 0.0), ("open", 0.5)):
        noise = f"source_encoder.sigma={sigma}"
        code, _, err = call("train", "--task", "depth", *TINY, noise, "-o", f"runs/{name}")
        assert code == 0, err
    Image.fromarray(np.random.default_rng(0).integers(255, size=(24, 40, 3), dtype=np.uint8)).save("a.png")
    line = ["run", "--task", "depth", "--checkpoint", "runs/open", "a.png"]

    code, out, err = call(*line, "--samples", "4", "--uncertainty", "--json")
    assert code == 0, err
    (record,) = json.loads(out)["results"]
    assert record["samples"] == 4
    values, picture = record["uncertainty"]["files"]
    assert (values, picture) == ("a-depth-uncertainty.npy", "a-depth-uncertainty.png")
    spread = np.load(values)
    assert (spread.shape, spread.dtype) == ((24, 40), np.float32)
    assert record["uncertainty"]["largest"] == pytest.approx(float(spread.max()))
    with Image.open(picture) as shown:
        assert shown.size == (40, 24)
    # The mean is that of the samples that the same call without the option writes.
    assert call(*line, "--samples", "4", "-o", "each")[0] == 0
    samples = np.stack([np.load(path) for path in sorted(Path("each").glob("*.npy"))])
    assert len(samples) == 4
    assert np.allclose(np.load("a-depth.npy"), samples.mean(axis=0), rtol=1e-4)
    assert np.allclose(spread, samples.std(axis=0, ddof=1), rtol=1e-3, atol=1e-5)
    assert call(*line, "--samples", "2", "--uncertainty", "-o", "named.npy")[1].split() == [
        "named.npy", "named-uncertainty.npy", "named-uncertainty.png",
    ]  # fmt: skip

    sure = ["run", "--task", "depth", "--checkpoint", "runs/sure", "a.png", "--uncertainty"]
    code, _, err = call(*sure, "--samples", "2")
    assert code == 1
    assert "draws nothing" in err
    code, _, err = call(*sure)
    assert code == 2
    assert "--samples 2 or more" in err
    assert call(*line, "--samples", "2", "--uncertainty", "--interpolate", "a.png")[0] == 2

    score = ["eval", "--task", "depth", "--checkpoint", "runs/open", "--count", "8", "--samples", "3"]
    code, out, err = call(*score, "--json", "--picture", "grid.png")
    assert code == 0, err
    found = json.loads(out)["calibration"]
    assert len(found["spread"]) == len(found["error"]) == 10
    assert found["spread"] == sorted(found["spread"])
    assert 0 < found["ause_by_chance"] < 1
    code, out, _ = call(*score, "--quick")
    assert "AUSE" in out
    assert "a tenth each" in out
    assert "calibration" not in json.loads(call(*score[:-2], "--json", "--quick")[1])
    assert json.loads(call(*score, "--json")[1])["scored"]["samples"] == 3
    assert json.loads(call(*score, "--json")[1])["network_evaluations"] == 6
    # Two checkpoints are compared by their calibration as by any other figure.
    code, out, err = call(*score[:3], "--count", "8", "--samples", "3", "--compare", "runs/open", "runs/open")
    assert code == 0, err
    assert "ause" in out
    assert "+0.0000" in out
    code, _, err = call(*score[:4], "runs/sure", *score[5:])
    assert code == 1
    assert "draws nothing" in err
