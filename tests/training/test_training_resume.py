"""N steps are the same as k steps, a stop, and N - k more."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bridgeflow.checkpoints.checkpoint import list_checkpoints, open_checkpoint
from bridgeflow.checkpoints.runs import find_resumable, latest_run, new_folder
from bridgeflow.cli.main import invoke
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.training import loop
from bridgeflow.training.start import Run

Make = Callable[..., Recipe]
Train = Callable[..., Run]


def states(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: load_file(folder / name)
        for name in ("model.safetensors", "ema.safetensors", "trainer/optimizer.safetensors")
    }


def assert_equal(one: Path, other: Path) -> None:
    left, right = states(one), states(other)
    for name, tensors in left.items():
        assert tensors.keys() == right[name].keys()
        assert tensors, name
        for key, tensor in tensors.items():
            assert torch.equal(tensor, right[name][key]), f"{name}: {key}"


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGTERM to this process while a step is computed."""
    before = loop.Trainer._train_step

    def interrupted(self: loop.Trainer, data: object) -> object:
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return before(self, data)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "_train_step", interrupted)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_interrupted_run_ends_where_the_whole_one_does(
    accumulation: int, tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_depth("training.steps=12", f"training.accumulation={accumulation}", "null_rate=0.5")
    whole = quiet_train(recipe, output="whole")
    with monkeypatch.context() as patched:
        stop_at(7, patched)
        part = quiet_train(recipe, output="part")
    assert part.outcome.interrupted == "SIGTERM"
    assert part.outcome.step == 7
    checkpoint = open_checkpoint(Path("part"))
    assert checkpoint.step == 7
    rest = quiet_train(checkpoint.recipe(), resume=checkpoint)
    assert rest.outcome.step == 12
    assert_equal(whole.outcome.checkpoint, rest.outcome.checkpoint)
    assert not torch.equal(
        states(whole.outcome.checkpoint)["model.safetensors"]["network.stem.weight"],
        load_file(checkpoint.folder / "model.safetensors")["network.stem.weight"],
    )
    lines = [json.loads(line) for line in Path("part/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    losses = [json.loads(line)["train/loss"] for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert [line["train/loss"] for line in lines] == losses


def test_a_signal_in_the_last_step_finds_a_whole_run(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_depth("training.steps=3", "training.evaluate=2")
    whole = quiet_train(recipe, output="whole")
    stop_at(3, monkeypatch)
    run = quiet_train(recipe, output="run")
    assert (run.outcome.step, run.outcome.signal, run.outcome.interrupted) == (3, "SIGTERM", None)
    assert run.report is not None
    assert whole.report is not None
    assert run.report.figures == whole.report.figures
    assert Path("run/samples/000003.png").is_file()
    assert_equal(whole.outcome.checkpoint, run.outcome.checkpoint)


@pytest.mark.parametrize(("step", "code", "words"), [(2, 143, "stopped by SIGTERM at step 2"), (3, 0, "done in ")])
def test_the_exit_code_tells_whether_steps_are_left(
    step: int,
    code: int,
    words: str,
    tiny_depth: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("own.yaml").write_text(tiny_depth("training.steps=3").yaml())
    stop_at(step, monkeypatch)
    assert invoke(["train", "--task", "depth", "--recipe", "own.yaml", "--device", "cpu", "--output", "run"]) == code
    told = capsys.readouterr().err
    assert words in told
    assert ("SIGTERM came when all steps were done" in told) == (code == 0)


def test_learned_source_with_batch_statistics_resumes_equal(
    quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.load(
        "caption/blocks",
        [
            "data.size=64", "data.held_out=8", "data.workers=1", "training.steps=6", "training.batch_size=8",
            "training.precision=fp32", "training.evaluate=0", "training.sample_every=0", "training.log_every=1",
            "source_encoder.width=32", "source_encoder.depth=1", "network.width=32", "network.depth=1",
            "target.codec.steps=20", "target.codec.width=32", "target.codec.heads=4",
        ],
    )  # fmt: skip
    whole = quiet_train(recipe, output="whole")
    with monkeypatch.context() as patched:
        stop_at(3, patched)
        quiet_train(recipe, output="part")
    checkpoint = open_checkpoint(Path("part"))
    rest = quiet_train(checkpoint.recipe(), resume=checkpoint)
    assert_equal(whole.outcome.checkpoint, rest.outcome.checkpoint)
    averaged = load_file(whole.outcome.checkpoint / "ema.safetensors")
    raw = load_file(whole.outcome.checkpoint / "model.safetensors")
    key = "source_encoder.mean_norm.running_var"
    assert not torch.allclose(averaged[key], raw[key]), "the average has statistics of its own"


def test_a_longer_run_goes_on_from_a_finished_one(tiny_depth: Make, quiet_train: Train) -> None:
    quiet_train(tiny_depth("training.steps=4"), output="run")
    checkpoint = open_checkpoint(Path("run"))
    longer = checkpoint.recipe().changed(training={"steps": 6})
    run = quiet_train(longer, resume=checkpoint)
    assert run.folder == Path("run")
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["000004", "000006"]


def test_damaged_newest_checkpoint_gives_way_to_the_one_before(tiny_depth: Make, quiet_train: Train) -> None:
    quiet_train(tiny_depth("training.steps=4", "training.checkpoint_every=2"), output="run")
    newest = Path("run/checkpoints/000004/model.safetensors")
    newest.write_bytes(newest.read_bytes()[:100])
    assert open_checkpoint(Path("run")).step == 2
    with pytest.raises(BridgeflowError, match=r"damaged \(model\.safetensors is cut short"):
        open_checkpoint(Path("run/checkpoints/000004"))


def test_rotation_keeps_the_newest(tiny_depth: Make, quiet_train: Train) -> None:
    quiet_train(tiny_depth("training.steps=5", "training.checkpoint_every=1", "training.keep=2"), output="run")
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["000004", "000005"]
    assert not list(Path("run/checkpoints").glob(".*"))


def test_no_pickle_is_written(tiny_depth: Make, quiet_train: Train) -> None:
    run = quiet_train(tiny_depth("training.steps=2"), output="run")
    endings = {path.suffix for path in run.outcome.checkpoint.rglob("*") if path.is_file()}
    assert endings == {".safetensors", ".yaml", ".json"}


def test_a_new_run_never_writes_over_an_old_one(tiny_depth: Make, quiet_train: Train) -> None:
    recipe = tiny_depth("training.steps=1")
    quiet_train(recipe, output="run")
    with pytest.raises(UsageError, match="holds a run already: add --resume"):
        quiet_train(recipe, output="run")
    assert new_folder(recipe, None) == Path("runs/depth-blocks-01")
    assert new_folder(recipe, None) == Path("runs/depth-blocks-02")


def test_latest_run_is_found_by_task(tiny_depth: Make, quiet_train: Train) -> None:
    with pytest.raises(UsageError, match="there is no run of task 'depth'"):
        find_resumable("depth", None)
    quiet_train(tiny_depth("training.steps=1"))
    second = quiet_train(tiny_depth("training.steps=1"))
    os.utime(second.outcome.checkpoint / "meta.json", (2e9, 2e9))
    assert latest_run("depth") == second.folder
    assert latest_run("caption") is None


def test_second_signal_stops_at_once() -> None:
    with loop.Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.received == "SIGINT"
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_later_checkpoints_are_kept_aside_when_a_run_goes_on_from_an_earlier_one(
    tiny_depth: Make, quiet_train: Train
) -> None:
    quiet_train(tiny_depth("training.steps=4", "training.checkpoint_every=2"), output="run")
    newest = Path("run/checkpoints/000004/model.safetensors")
    newest.write_bytes(newest.read_bytes()[:100])
    earlier = open_checkpoint(Path("run"))
    assert earlier.step == 2
    assert "000004" in earlier.passed_over[0]
    run = quiet_train(earlier.recipe(), resume=earlier)
    assert open_checkpoint(Path("run")).step == 4
    assert load_file(run.outcome.checkpoint / "model.safetensors")
    assert Path("run/checkpoints/000004-aside-01").is_dir()


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    for name in ("999500", "1000000", "000010"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["000010", "999500", "1000000"]
