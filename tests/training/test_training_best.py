"""checkpoints/best: which checkpoint it is, that nothing removes it, and that it is whole or absent."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_faults import killed_at

from bridgeflow.checkpoints import best
from bridgeflow.checkpoints.best import go_on_from, keep_best
from bridgeflow.checkpoints.checkpoint import list_checkpoints, open_checkpoint
from bridgeflow.checkpoints.runs import find_resumable, latest_run
from bridgeflow.cli.main import invoke
from bridgeflow.config.recipe import Recipe
from bridgeflow.training.start import Run
from bridgeflow.training.validation import Validation

Make = Callable[..., Recipe]
Train = Callable[..., Run]
BEST = Path("run/checkpoints/best")


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives val/loss one value after another."""

    def set_to(*values: float) -> None:
        left = iter(values)
        monkeypatch.setattr(Validation, "__call__", lambda self, bridge: {"val/loss": next(left)})

    return set_to


@pytest.fixture
def four(tiny_depth: Make) -> Callable[..., Recipe]:
    """A run of four steps, each of them saved and measured."""

    def make(*more: str) -> Recipe:
        return tiny_depth("training.steps=4", "training.checkpoint_every=1", "training.sample_every=1", *more)

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_the_one_with_the_lowest_loss_and_outlives_the_others(
    four: Make, quiet_train: Train, losses: Callable[..., None]
) -> None:
    losses(3.0, 1.0, 2.0, 1.0)
    quiet_train(four("training.keep=1"), output="runs/one")
    folder = Path("runs/one/checkpoints")
    assert sorted(path.name for path in folder.iterdir()) == ["000004", "best"]
    found = open_checkpoint(folder / "best", thorough=True)
    assert (found.step, found.meta["val_loss"]) == (2, 1.0)
    assert open_checkpoint(Path("runs/one")).step == 4
    assert find_resumable("depth", "runs/one").step == 4
    assert latest_run("depth") == Path("runs/one")
    losses(4.0, 3.0, 2.0, 1.0)
    quiet_train(four("training.keep=1"), output="runs/two")
    assert open_checkpoint(Path("runs/two/checkpoints/best")).step == 4


def test_it_is_that_checkpoint_and_takes_no_space_beside_it(
    four: Make, quiet_train: Train, losses: Callable[..., None]
) -> None:
    losses(3.0, 1.0, 2.0, 2.5)
    quiet_train(four("training.keep=4"), output="run")
    own = BEST.parent / "000002"
    assert contents(BEST) == contents(own)
    linked = {name for name in contents(BEST) if (BEST / name).stat().st_nlink == 2}
    assert linked == set(contents(BEST)) - {"meta.json"}
    assert "val_loss" in json.loads((own / "meta.json").read_text())
    # Other defaults of sampling are those of the one alone.
    opened = open_checkpoint(BEST)
    changed = opened.sampling().model_copy(update={"batch_size": 7})
    opened.with_sampling(changed, None)
    assert (open_checkpoint(BEST).sampling().batch_size, open_checkpoint(own).sampling().batch_size) == (7, 32)


def test_a_command_runs_it(four: Make, quiet_train: Train, losses: Callable[..., None]) -> None:
    losses(2.0, 1.0, 3.0, 4.0)
    quiet_train(four("training.keep=1"), output="run")
    Image.new("RGB", (64, 64), (90, 40, 10)).save("picture.png")
    results = []
    for checkpoint in ("run", "run/checkpoints/best"):
        assert invoke(["run", "--task", "depth", "picture.png", "-o", "d.npy", "--checkpoint", checkpoint]) == 0
        results.append(np.load("d.npy"))
    assert not np.array_equal(*results)
    assert invoke(["train", "--task", "depth", "--device", "cpu", "--from", str(BEST), "-o", "next", "--dry-run"]) == 2
    line = ["data.size=48", "data.held_out=8", "network.channels=[8,16]", "network.blocks=1", "network.attention=[]"]
    assert invoke(["train", "--task", "depth", "--device", "cpu", "--from", str(BEST), "--dry-run", *line]) == 0


@pytest.mark.parametrize(
    "more",
    [("training.sample_every=0",), ("training.sample_every=4",), ("training.validation=0",)],
    ids=["at the end alone", "sampled at the end alone", "not measured"],
)
def test_without_several_to_choose_from_there_is_none(more: tuple[str, ...], four: Make, quiet_train: Train) -> None:
    quiet_train(four(*more), output="run")
    assert sorted(path.name for path in BEST.parent.iterdir()) == ["000003", "000004"]


def test_steps_that_are_measured_and_not_saved_are_none(
    four: Make, quiet_train: Train, losses: Callable[..., None]
) -> None:
    losses(1.0, 2.0, 0.5, 3.0)
    quiet_train(four("training.checkpoint_every=2"), output="run")
    assert open_checkpoint(BEST).step == 2


def test_a_run_that_goes_on_keeps_the_best_of_both_starts(
    four: Make, quiet_train: Train, losses: Callable[..., None]
) -> None:
    losses(3.0, 1.0, 2.0, 2.5)
    quiet_train(four("training.keep=1"), output="run")
    checkpoint = open_checkpoint(Path("run"))
    losses(1.5, 0.9)
    quiet_train(checkpoint.recipe().changed(training={"steps": 5}), resume=checkpoint)
    assert open_checkpoint(BEST).step == 2
    checkpoint = open_checkpoint(Path("run"))
    losses(0.9)
    quiet_train(checkpoint.recipe().changed(training={"steps": 6}), resume=checkpoint)
    assert open_checkpoint(BEST).step == 6


def test_one_of_a_later_step_is_put_aside_where_a_run_goes_back(
    four: Make, quiet_train: Train, losses: Callable[..., None]
) -> None:
    losses(3.0, 1.5, 2.0, 1.0)
    quiet_train(four("training.keep=4"), output="run")
    assert open_checkpoint(BEST).step == 4
    for step in ("000003", "000004"):
        shutil.rmtree(BEST.parent / step)
    checkpoint = find_resumable("depth", "run")
    losses(2.0, 1.8)
    quiet_train(checkpoint.recipe(), resume=checkpoint)
    # The better of the two that were there is found again.
    assert open_checkpoint(BEST).step == 2
    assert open_checkpoint(BEST.parent / "best-aside-01").step == 4


def test_a_file_system_without_links_gets_copies(
    four: Make, quiet_train: Train, losses: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    losses(1.0, 2.0, 3.0, 4.0)
    quiet_train(four("training.keep=4"), output="run")
    assert contents(BEST) == contents(BEST.parent / "000001")
    assert {path.stat().st_nlink for path in BEST.rglob("*") if path.is_file()} == {1}


def test_where_it_cannot_be_kept_training_goes_on(
    four: Make,
    quiet_train: Train,
    losses: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    losses(1.0, 2.0, 3.0, 4.0)
    monkeypatch.setattr(best.durable, "replace_folder", full)
    assert quiet_train(four(), output="run").outcome.step == 4
    told = " ".join(capsys.readouterr().err.split())
    assert "'run/checkpoints/000001', cannot be kept as 'best' (No space left on device); training goes on." in told
    assert sorted(path.name for path in BEST.parent.iterdir()) == ["000003", "000004"]


def test_it_is_whole_or_absent_when_its_writer_is_killed_and_found_again(
    four: Make, quiet_train: Train, losses: Callable[..., None]
) -> None:
    losses(3.0, 4.0, 2.0, 5.0)
    quiet_train(four("training.keep=4"), output="run")
    folder = BEST.parent
    shutil.rmtree(BEST)

    def steps() -> Iterator[Any]:
        for event in range(1, 60):
            shutil.rmtree(BEST, ignore_errors=True)
            keep_best(folder / "000001")
            assert open_checkpoint(BEST).step == 1
            code = killed_at(event, folder, lambda: keep_best(folder / "000003"))
            yield open_checkpoint(BEST, thorough=True).step if BEST.exists() else None
            assert find_resumable("depth", "run").step == 4
            assert [path.name for path in list_checkpoints(folder)] == ["000001", "000002", "000003", "000004"]
            # As the next start does, once it has removed what was left behind.
            best.durable.remove_leftovers(folder)
            assert not list(folder.glob(".*"))
            go_on_from(folder, 4)
            assert open_checkpoint(BEST, thorough=True).step == 3
            if code == 0:
                return

    found = list(steps())
    assert found[0] == 1
    assert found[-1] == 3
    assert found.count(1) >= 8
    assert found.count(None) <= 2
