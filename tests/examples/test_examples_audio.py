"""The distribution bridgeflow-audio, installed from its wheel: checked, trained against a baseline, and run."""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "bridgeflow-audio"
QUICK = (
    "training.steps=200",
    "training.batch_size=8",
    "training.ema=0.98",
    "training.schedule.warmup=20",
    "training.precision=fp32",
    "training.sample_every=0",
    "training.samples=4",
    "training.evaluate=64",
)
"""A tenth of the default recipe's pairs: about twenty seconds on one core."""


@pytest.fixture(scope="module")
def place(elsewhere: Callable[..., Any]) -> Any:
    """A folder to run commands in, with the wheel installed."""
    return elsewhere("bridgeflow-audio")


@pytest.fixture(scope="module")
def evaluation(place: Any) -> dict[str, Any]:
    """The figures of a short run of the default recipe, which lies in the folder `run`."""
    line = ["train", "--task", "text_to_audio", "--device", "cpu", "-o", "run", "--json", *QUICK]
    scored: dict[str, Any] = json.loads(place.call(*line))["evaluation"]
    return scored


def samples(path: Path) -> np.ndarray:
    """A WAV file's samples in [-1, 1]; it is mono, of 16 bits and 8000 Hz."""
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15


def test_the_installed_wheel_brings_modality_task_data_and_recipes(place: Any) -> None:
    plugins = json.loads(place.started("bridgeflow", "plugins", "list", "--json"))
    own = {(p["kind"], p["name"]) for p in plugins if p["distribution"] == "bridgeflow-audio"}
    assert own == {
        ("modality", "audio"),
        ("task", "text_to_audio"),
        ("dataset", "tones"),
        ("recipe", "bridgeflow-audio"),
    }
    recipes = place.call("recipes", "list", "--json")
    assert '"text_to_audio/tones"' in recipes
    assert '"text_to_audio/folder"' in recipes


@pytest.mark.parametrize("name", ["audio", "text_to_audio"])
def test_plugins_check_passes(place: Any, name: str) -> None:
    said = place.call("plugins", "check", name, "--json")
    assert said.count('"passed"') > 10
    assert '"failed"' not in said
    assert '"waived"' not in said


def test_its_own_tests_pass(place: Any, tmp_path: Path) -> None:
    # The conformance tests among them do what `plugins check` does.
    shutil.copy(EXAMPLE / "tests" / "test_audio.py", tmp_path)
    said = place.started("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path)
    assert " passed" in said
    assert "skipped" not in said


def test_held_out_captions_are_nearer_than_the_baseline(evaluation: dict[str, Any]) -> None:
    figures, baseline = evaluation["figures"], evaluation["baseline"]["figures"]
    assert (evaluation["examples"], evaluation["baseline"]["name"]) == (64, "mean log-mel")
    # By this figure the mean is the best of all sounds that do not follow the caption.
    assert figures["mel_error_db"] < 0.9 * baseline["mel_error_db"]
    assert figures["pitch_agreement"] > baseline["pitch_agreement"] + 0.2


def test_a_run_writes_sounds_that_open_again(place: Any, evaluation: dict[str, Any]) -> None:
    captions = ["a long loud low tone", "a long loud high tone"]
    line = ["run", "--task", "text_to_audio", *captions, "--checkpoint", "run", "--device", "cpu"]
    results = json.loads(place.started("bridgeflow", *line, "-o", "sounds", "--json"))["results"]
    assert [result["input"] for result in results] == captions
    files = [place.folder / result["files"][0] for result in results]
    assert [file.name for file in files] == [f"{caption.replace(' ', '-')}-text_to_audio.wav" for caption in captions]
    strongest = []
    for file in files:
        waveform = samples(file)
        assert waveform.shape == (7936,)
        assert np.abs(waveform).max() > 0.1
        strongest.append(np.abs(np.fft.rfft(waveform)).argmax() * 8000 / 7936)
    # The captions say 220 and 1200 Hz.
    assert 150 < strongest[0] < 350
    assert 800 < strongest[1] < 1800


def test_pictures_of_sounds_are_drawn(place: Any, evaluation: dict[str, Any]) -> None:
    for name in ("samples/000200.png", "evaluation.png"):
        with Image.open(place.folder / "run" / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    line = ["run", "--task", "text_to_audio", "two short loud low beeps", "--checkpoint", "run"]
    place.call(*line, "--device", "cpu", "-o", "beeps.wav", "--trajectory", "flow.gif")
    assert samples(place.folder / "beeps.wav").shape == (7936,)
    with Image.open(place.folder / "flow.gif") as flow:
        # The words, the start of the flow, and its five steps.
        assert getattr(flow, "n_frames", 1) == 7


def test_sounds_of_the_datasets_library_stay_encoded(tmp_path: Path) -> None:
    import datasets

    from bridgeflow.data.hub import HubDataset

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(200))
    files = datasets.Dataset.from_dict({"audio": [str(tmp_path / "a.wav")] * 20, "text": ["silence"] * 20})
    files.cast_column("audio", datasets.Audio()).save_to_disk(tmp_path / "kept")
    row = HubDataset(path=str(tmp_path / "kept")).open("train")[0]
    assert row["text"] == "silence"
    assert set(row["audio"]) == {"path", "bytes"}
