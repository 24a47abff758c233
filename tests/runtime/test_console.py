"""What is said while something takes long, without anything that does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bridgeflow.cli.main import invoke
from bridgeflow.runtime import console
from bridgeflow.runtime.console import Progress


class Late:
    """A timer whose time has passed when it starts: whatever it watches is slow."""

    daemon = False

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.call = call

    def start(self) -> None:
        self.call()

    def cancel(self) -> None:
        pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "Timer", Late)


def test_what_takes_long_says_what_it_is_from_within(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = threading.Event()
    progress = Progress()
    line = progress._line
    monkeypatch.setattr(progress, "_line", lambda text: (line(text), said.set()))
    with progress.doing("opening the data", after=0.01):
        assert said.wait(30)
    assert capsys.readouterr().err == "opening the data ...\n"


def test_what_is_quick_or_quiet_or_speaks_by_itself_adds_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held: list[Callable[[], None]] = []

    class Held(Late):
        def start(self) -> None:
            held.append(self.call)

        def cancel(self) -> None:
            cancelled.append(self.call)

    cancelled: list[Callable[[], None]] = []
    monkeypatch.setattr(console, "Timer", Held)
    with pytest.raises(ValueError, match="broken"), Progress().doing("opening the data"):
        raise ValueError("broken")
    assert cancelled == held != []
    with Progress(quiet=True).doing("opening the data"):
        assert len(held) == 1
    progress = Progress()
    with progress.doing("opening the data"):
        progress.say("a word of its own")
        held[-1]()
    assert capsys.readouterr().err == "a word of its own\n"


def test_progress_away_from_a_terminal_begins_after_two_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    progress = Progress()
    shown = []
    for second in range(16):
        now = 100.0 + second
        progress(second, 100, "reading pictures")
        if capsys.readouterr().err:
            shown.append(second)
    assert shown == [2, 12]


TINY = "network.channels=[8,8] network.blocks=1 network.attention=[] training.precision=fp32 training.batch_size=2 "
TINY += "training.steps=1 training.evaluate=2 training.sample_every=0 training.samples=1 data.size=8 data.held_out=4"


def test_every_stage_before_the_first_result_has_its_line(
    slow: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def said(*line: str) -> list[str]:
        assert invoke([*line]) == 0
        return [text.removesuffix(" ...") for text in capsys.readouterr().err.splitlines() if text.endswith(" ...")]

    small = [*TINY.split(), "data.workers=1"]
    assert said("train", "--task", "depth", "--device", "cpu", "-o", "run", *small) == [
        "loading torch and the plugins",
        "preparing the device",
        "opening the training data",
        "opening the held-out data",
        "estimating the memory",
        "fitting the codecs",
        "reading the held-out examples",
        "building the network",
        "reading the first batch",
        "encoding the first batch",
        "taking the first step",
        "scoring held-out examples",
    ]
    assert said("train", "--task", "depth", "--device", "cpu", "-o", "run", "--resume", "training.steps=2")[:2] == [
        "loading torch and the plugins",
        "checking the checkpoint",
    ]
    assert said("eval", "--task", "depth", "--checkpoint", "run", "--count", "2", "--quick") == [
        "loading torch and the plugins",
        "opening the checkpoint",
        "opening the training data",
        "opening the held-out data",
        "reading the held-out examples",
        "scoring held-out examples",
    ]
    picture = str(next((tmp_path / "run" / "samples").glob("*.png")))
    assert said("run", "--task", "depth", "--checkpoint", "run", picture, "-o", "result") == [
        "loading torch and the plugins",
        "opening the checkpoint",
        "reading the inputs",
        "computing the results",
    ]
    cached = said("cache", "--task", "depth", "--device", "cpu", "-o", "latents", *small)
    assert cached == [
        "loading torch and the plugins",
        "opening the training data",
        "opening the held-out data",
        "fitting the codecs",
        "taking the fingerprints of the codecs",
        "encoding train rows",
        "encoding held-out rows",
    ]
    pictures = f"folder:{tmp_path / 'run' / 'samples'}"
    assert said("fit", "image_latent", "--data", pictures, "codec.name=pca", "codec.components=2", "size=16") == [
        "loading torch and the plugins",
        "opening the data",
        "reading the first row",
        "fitting the codec",
    ]


def test_the_command_line_says_that_it_loads_before_torch_is_there() -> None:
    import subprocess

    program = "import sys; import bridgeflow.runtime.console; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
