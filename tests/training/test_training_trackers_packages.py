"""Trackers of packages that need not be installed: what is asked of them, on stand-ins that note it."""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bridgeflow.tracker import TrackedRun
from bridgeflow.training.trackers import TrackioSettings, WandbSettings


class Fake(types.ModuleType):
    """A package that notes what accelerate asks of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.util.spec_from_loader(name, None)
        self.calls: list[tuple[Any, ...]] = []
        self.config = types.SimpleNamespace(update=self.note("config"))
        self.id = "abc123"

    def note(self, what: str) -> Callable[..., Any]:
        return lambda *given, **named: self.calls.append((what, given, named))

    def init(self, **named: Any) -> Any:
        print("* welcome")
        self.calls.append(("init", (), named))
        return types.SimpleNamespace(id=self.id, log=self.note("log"), finish=self.note("finish"))

    def Image(self, picture: Image.Image) -> tuple[str, tuple[int, int]]:
        return ("image", picture.size)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Fake]:
    def make(name: str) -> Fake:
        made = Fake(name)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return make


def tracked(settings: Any, folder: Path, first_step: int) -> None:
    tracker = settings.build()
    tracker.start(TrackedRun(folder, folder.name, {"task": "depth"}, first_step))
    tracker.log(first_step, {"train/loss": 0.5})
    tracker.picture(first_step, "samples", Image.new("RGB", (6, 4)))
    tracker.close()


def test_wandb_goes_on_with_the_run_that_it_began(tmp_path: Path, fake: Callable[[str], Fake]) -> None:
    package = fake("wandb")
    folder = tmp_path / "depth-01"
    folder.mkdir()
    settings = WandbSettings(project="mine", entity="us", mode="offline")
    tracked(settings, folder, 1)
    assert package.calls[0] == (
        "init",
        (),
        {
            "project": "mine", "entity": "us", "mode": "offline", "name": "depth-01", "dir": str(folder), "id": None,
            "resume": None,
        },
    )  # fmt: skip
    assert package.calls[1][:2] == ("config", ({"task": "depth"},))
    assert package.calls[2:] == [
        ("log", ({"train/loss": 0.5},), {"step": 1}),
        ("log", ({"samples": [("image", (6, 4))]},), {"step": 1}),
        ("finish", (), {}),
    ]
    package.calls.clear()
    tracked(settings, folder, 5)
    assert (package.calls[0][2]["id"], package.calls[0][2]["resume"]) == ("abc123", "allow")
    package.calls.clear()
    # A new run in the folder of one that was killed before it saved anything is another run there.
    tracked(settings, folder, 1)
    assert package.calls[0][2]["id"] is None


def test_trackio_is_told_all_and_greets_on_stderr(
    tmp_path: Path, fake: Callable[[str], Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    package = fake("trackio")
    tracked(TrackioSettings(project="mine", space="us/board"), tmp_path / "depth-01", 1)
    assert package.calls == [
        (
            "init",
            (),
            {
                "project": "mine", "name": "depth-01", "space_id": "us/board", "config": {"task": "depth"},
                "resume": "never", "embed": False,
            },
        ),
        ("log", ({"train/loss": 0.5},), {"step": 1}),
        ("log", ({"samples": ("image", (6, 4))},), {"step": 1}),
        ("finish", (), {}),
    ]  # fmt: skip
    told = capsys.readouterr()
    assert (told.out, "welcome" in told.err) == ("", True)
    package.calls.clear()
    tracked(TrackioSettings(), tmp_path / "depth-01", 4)
    assert package.calls[0][2]["resume"] == "allow"
