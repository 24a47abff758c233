"""Where figures go besides the run's folder: TensorBoard, others, and trackers that fail."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from training_faults import forked, largest_file

from bridgeflow.checkpoints.checkpoint import open_checkpoint
from bridgeflow.checkpoints.runs import find_resumable
from bridgeflow.cli.main import invoke
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.training import loop
from bridgeflow.training.start import Run
from bridgeflow.training.trackers import TensorBoardSettings, Trackers

Make = Callable[..., Recipe]
Train = Callable[..., Run]
Install = Callable[..., Path]

ODD = """
from typing import ClassVar, Literal
from bridgeflow.tracker import Tracker, TrackerSettings

told = []

class Odd(TrackerSettings):
    summary: ClassVar[str] = "a list"
    name: Literal["odd"] = "odd"
    fails_in: str = ""

    def build(self):
        return Inner(self.fails_in)

class Inner(Tracker):
    def __init__(self, fails_in):
        self.fails_in = fails_in

    def note(self, method, *what):
        if method == self.fails_in:
            raise ConnectionError("no route to host\\nand more")
        told.append((method, *what))

    def start(self, run):
        self.note("start", run)

    def log(self, step, figures):
        self.note("log", step, dict(figures))

    def picture(self, step, name, picture):
        self.note("picture", step, name, picture.size)

    def close(self):
        self.note("close")
"""


def board(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def steps_of(run: Path, name: str) -> list[int]:
    return [event.step for event in board(run).Scalars(name)]


@pytest.fixture
def odd(install: Install) -> Iterator[list[tuple[Any, ...]]]:
    """What the tracker `odd` was told."""
    install("acme", {"bridgeflow.trackers": {"odd": "acme_odd:Odd"}}, {"acme_odd.py": ODD})
    import acme_odd  # type: ignore[import-not-found]

    yield acme_odd.told
    del sys.modules["acme_odd"]


def test_tensorboard_has_every_figure_the_pictures_and_the_recipe(tiny_depth: Make, quiet_train: Train) -> None:
    folder = quiet_train(tiny_depth("training.steps=4", "training.sample_every=2")).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = board(folder)
    assert set(found.Tags()["scalars"]) == {name for line in lines for name in line} - {"step"}
    for name in found.Tags()["scalars"]:
        told = [(line["step"], pytest.approx(line[name], rel=1e-4)) for line in lines if name in line]
        assert [(event.step, event.value) for event in found.Scalars(name)] == told
    assert [event.step for event in found.Images("samples")] == [2, 4]
    assert "steps: 4" in found.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()


def test_a_resumed_run_tells_no_step_twice(tiny_depth: Make, quiet_train: Train) -> None:
    quiet_train(tiny_depth("training.steps=6", "training.checkpoint_every=3", "training.sample_every=2"), output="run")
    shutil.rmtree("run/checkpoints/000006")
    checkpoint = find_resumable("depth", "run")
    assert checkpoint.step == 3
    quiet_train(checkpoint.recipe(), resume=checkpoint)
    assert len(list(Path("run/tensorboard").iterdir())) == 2
    assert steps_of(Path("run"), "train/loss") == [1, 2, 3, 4, 5, 6]
    assert steps_of(Path("run"), "val/loss") == [2, 4, 6]
    assert [event.step for event in board(Path("run")).Images("samples")] == [2, 4, 6]


def test_a_killed_run_has_told_tensorboard_every_step(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loop.Trainer._train_step

    def killing(self: loop.Trainer, data: Any) -> Any:
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(self, data)

    monkeypatch.setattr(loop.Trainer, "_train_step", killing)
    recipe = tiny_depth("training.steps=6", "training.sample_every=4")
    assert forked(lambda: quiet_train(recipe, output="run")) == -signal.SIGKILL
    assert steps_of(Path("run"), "train/loss") == [1, 2, 3, 4]
    assert [event.step for event in board(Path("run")).Images("samples")] == [4]


def test_a_full_disk_costs_the_board_and_one_sentence(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = loop.Trainer._train_step
    full = largest_file(8000)

    def filling(self: loop.Trainer, data: Any) -> Any:
        if self.step == 0:
            # Before the file of events grows beyond what there is space for.
            full.__enter__()
        if self.step == 29:
            full.__exit__(None, None, None)
        return before(self, data)

    monkeypatch.setattr(loop.Trainer, "_train_step", filling)
    run = quiet_train(tiny_depth("training.steps=30", "training.validation=0"), output="run")
    told = " ".join(capfd.readouterr().err.split())
    assert run.outcome.step == 30
    assert told.count("warning:") == 1, told
    assert "the tracker 'tensorboard' failed in `log` (OSError: [Errno 27] File too large), so training goes on" in told
    assert "Traceback" not in told
    assert "Exception in thread" not in told
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 30


def test_trackers_are_told_the_run_and_each_step(
    tiny_depth: Make, quiet_train: Train, odd: list[tuple[Any, ...]]
) -> None:
    chosen = "training.trackers=[odd, {name: tensorboard}]"
    recipe = tiny_depth("training.steps=4", "training.sample_every=2", "training.log_every=2", chosen)
    quiet_train(recipe, output="runs/mine")
    run = odd[0][1]
    assert (run.folder, run.name, run.first_step, run.resumed) == (Path("runs/mine"), "mine", 1, False)
    assert run.recipe["training"]["trackers"] == [{"name": "odd", "fails_in": ""}, {"name": "tensorboard"}]
    lines = [json.loads(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    logged = [(call[1], set(call[2])) for call in odd if call[0] == "log"]
    assert logged == [(line["step"], set(line) - {"step"}) for line in lines]
    assert [call[:3] for call in odd if call[0] == "picture"] == [("picture", 2, "samples"), ("picture", 4, "samples")]
    assert odd[-1] == ("close",)
    assert Path("runs/mine/tensorboard").is_dir()
    longer = open_checkpoint(Path("runs/mine")).recipe().changed(training={"steps": 6})
    quiet_train(longer, resume=open_checkpoint(Path("runs/mine")))
    again = [call for call in odd if call[0] == "start"][1][1]
    assert (again.first_step, again.resumed) == (5, True)


def test_without_trackers_nothing_but_the_run_s_own_files_is_written(tiny_depth: Make, quiet_train: Train) -> None:
    quiet_train(tiny_depth("training.steps=2", "training.trackers=[]"), output="run")
    found = sorted(path.name for path in Path("run").iterdir())
    assert found == ["checkpoints", "loss.png", "metrics.jsonl", "recipe.yaml", "samples"]


@pytest.mark.parametrize("method", ["start", "log", "picture", "close"])
def test_a_tracker_that_fails_is_named_once_and_the_run_ends_well(
    method: str,
    tiny_depth: Make,
    quiet_train: Train,
    odd: list[tuple[Any, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    trackers = f"training.trackers=[{{name: odd, fails_in: {method}}}, odd]"
    run = quiet_train(tiny_depth("training.steps=4", "training.sample_every=2", trackers))
    told = " ".join(capsys.readouterr().err.split())
    assert run.outcome.step == 4
    assert told.count("warning:") == 1
    assert (
        f"the tracker 'odd' failed in `{method}` (ConnectionError: no route to host), so training goes on without it; "
        "metrics.jsonl has every figure."
    ) in told
    # The other one is told all.
    whole = [call[0] for call in odd].count(method)
    assert whole == {"start": 1, "log": 4, "picture": 2, "close": 1}[method]
    assert (run.folder / "samples/000004.png").is_file()


def test_trackers_are_closed_where_training_fails(
    tiny_depth: Make, quiet_train: Train, odd: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: loop.Trainer, data: Any) -> Any:
        raise BridgeflowError("the data are gone: find them.")

    monkeypatch.setattr(loop.Trainer, "_train_step", failing)
    with pytest.raises(BridgeflowError, match="the data are gone"):
        quiet_train(tiny_depth("training.steps=2", "training.trackers=[odd]"))
    assert [call[0] for call in odd] == ["start", "close"]


def test_what_cannot_be_built_for_want_of_a_package_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in ("wandb", "trackio") else found(name, *rest)
    )
    for name in ("wandb", "trackio"):
        line = ["train", "--task", "depth", "--device", "cpu", "-o", "run", f"training.trackers=[{name}]"]
        assert invoke(line) == 1
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"bridgeflow: the tracker '{name}' needs the package {name}, which is not installed: pip install {name}, "
            "or take it out of training.trackers."
        )
    assert not Path("run").exists()


def test_a_tracker_whose_build_fails_otherwise_is_left_out() -> None:
    class Broken(TensorBoardSettings):
        def build(self) -> Any:
            raise ZeroDivisionError

    told: list[str] = []
    trackers = Trackers.built([("broken", Broken())], told.append)  # type: ignore[list-item]
    trackers.log(1, {})
    assert told == [
        "the tracker 'broken' failed in `build` (ZeroDivisionError), so training goes on without it; metrics.jsonl has "
        "every figure."
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[tensorbord]", "training.trackers.0: no tracker 'tensorbord'. Did you mean 'tensorboard'?"),
        (
            "[tensorboard, {name: wandb, projekt: x}]",
            "training.trackers.1.projekt: unknown key. Did you mean 'project'",
        ),
        ("[{project: x}]", "training.trackers.0: its name is missing, such as {name: tensorboard}."),
        ("wandb", "training.trackers: should be a list"),
        (
            "[{name: wandb, mode: of}]",
            "training.trackers.0.mode: should be 'online', 'offline' or 'disabled', not 'of'",
        ),
    ],
)
def test_mistakes_are_told_with_their_place(given: str, words: str, tiny_depth: Make) -> None:
    with pytest.raises(UsageError) as caught:
        tiny_depth(f"training.trackers={given}")
    assert words in str(caught.value)


def test_results_need_no_tracker_and_going_on_does(
    tiny_depth: Make, quiet_train: Train, odd: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_train(tiny_depth("training.steps=2", "training.trackers=[odd]"), output="run")
    monkeypatch.setenv("BRIDGEFLOW_PLUGINS", "none")
    from bridgeflow import registry

    registry.forget()
    Image.new("RGB", (64, 64)).save("picture.png")
    line = ["--task", "depth", "--checkpoint", "run"]
    assert invoke(["run", "picture.png", "-o", "depth.npy", *line]) == 0
    assert invoke(["eval", "--count", "2", *line]) == 0
    assert invoke(["export", "run", "-o", "model"]) == 0
    checkpoint = open_checkpoint(Path("run"))
    longer = checkpoint.recipe().changed(training={"steps": 3})
    with pytest.raises(UsageError, match=r"training\.trackers\.0: no tracker 'odd'"):
        quiet_train(longer, resume=checkpoint)
    other = longer.changed(training={"trackers": ["tensorboard"]})
    assert quiet_train(other, resume=checkpoint).outcome.step == 3
