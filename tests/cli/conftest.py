"""The command line, called in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgeflow import registry
from bridgeflow.cli.main import invoke


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where rendered scenes lie, which are the same for all tests."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture
def bridgeflow(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Calls a command in an empty folder; no traceback may show, whatever happens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(scenes))
    monkeypatch.setenv("COLUMNS", "100")
    registry.forget()

    def call(*arguments: str) -> Outcome:
        code = invoke([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Outcome(code, captured.out, captured.err)

    yield call
    registry.forget()


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """Folders that commands made, by the commands' arguments."""
    return {}


@pytest.fixture
def made(
    bridgeflow: Callable[..., Outcome], kept: dict[tuple[str, ...], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`made("runs/own", "train", "--task", "depth")`: what the command makes with `-o runs/own`, made once a session
    and copied from then on."""

    def make(folder: str, *arguments: str) -> Path:
        if arguments not in kept:
            outcome = bridgeflow(*arguments, "-o", folder)
            assert outcome.code == 0, outcome.err
            kept[arguments] = tmp_path_factory.mktemp("made") / "folder"
            shutil.copytree(folder, kept[arguments], symlinks=True)
        elif not Path(folder).exists():
            shutil.copytree(kept[arguments], folder, symlinks=True)
        return Path(folder)

    return make


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of 32x32 pixels, and one that is none."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for number in range(6):
        pixels = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}")
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder
