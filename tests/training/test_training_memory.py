"""A run that memory does not hold is refused before it begins, and told what takes less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bridgeflow.assembly import assemble
from bridgeflow.cli.main import invoke
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.training import memory
from bridgeflow.training.estimate import Estimate, estimate

Make = Callable[..., Recipe]


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**6)


def test_a_run_that_does_not_fit_is_refused_before_data_or_folders_are_made_of_it(
    little: None, tiny_depth: Make, quiet_train: Callable
) -> None:
    with pytest.raises(BridgeflowError) as caught:
        quiet_train(tiny_depth("training.check_memory=true"), output="run")
    sentence = str(caught.value)
    for words in (
        "training would take about 0.01 GB of memory a process, 0.01 GB of it for activations, and 0.00 GB are free",
        "a smaller training.batch_size with more training.accumulation",
        "training.gradient_checkpointing=true",
        "training.check_memory=false starts all the same",
    ):
        assert words in sentence
    assert "source_encoder" not in sentence
    assert not Path("run/recipe.yaml").exists()


def test_it_starts_all_the_same_where_that_is_asked_for(little: None, tiny_depth: Make, quiet_train: Callable) -> None:
    run = quiet_train(tiny_depth("training.steps=1", "training.check_memory=false"), output="run")
    assert run.outcome.step == 1


def test_a_run_that_goes_on_is_held_against_what_is_free_now(
    tiny_depth: Make, quiet_train: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_train(tiny_depth("training.steps=1", "training.check_memory=true"), output="run")
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**6)
    line = ["train", "--task", "depth", "--device", "cpu", "-o", "run", "--resume", "training.steps=2"]
    assert invoke(line) == 1
    assert "training would take about" in capsys.readouterr().err
    assert invoke([*line, "training.check_memory=false"]) == 0


def test_many_tokens_are_told_by_the_keys_that_make_fewer(little: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learned source over single pixels: 4,096 tokens and 4,096 queries, whose attention takes 40 GB."""
    keys = ["source_encoder={name: noisy, patch: 1, target_patch: 1}", "encoding.name=cross", "training.precision=fp32"]
    assembly = assemble(recipes.load("depth/blocks", keys))
    found = estimate(assembly, "fp32")
    assert found is not None
    assert found.memory["activations"] > 20e9
    told = memory.savings(assembly, found)
    assert told.startswith("source_encoder.patch=4, source_encoder.target_patch=4, a smaller training.batch_size")
    usual = assemble(recipes.load("depth/blocks", ["source_encoder.name=noisy", "encoding.name=cross"]))
    assert estimate(usual, "fp32").memory["activations"] < 2e9  # type: ignore[union-attr]


def test_what_cannot_be_estimated_is_not_refused(
    little: None, tiny_depth: Make, quiet_train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unforeseen(*_: object) -> Estimate:
        raise RuntimeError("whatever a network comes up with")

    for answer in (unforeseen, lambda *_: None):
        monkeypatch.setattr(memory, "estimate", answer)
        run = quiet_train(tiny_depth("training.steps=1"), output=f"run-{answer is unforeseen}")
        assert run.outcome.step == 1


def test_processes_share_main_memory_and_shards_share_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Estimate({}, {"weights": 400, "gradients": 400, "activations": 100})
    assert whole.over(4).memory == {"weights": 100, "gradients": 100, "activations": 100}

    class On:
        def __init__(self, kind: str) -> None:
            self.device = torch.device(kind)

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.fits(whole, 1100, On("cuda"))  # type: ignore[arg-type]
    assert not memory.fits(whole, 1100, On("cpu"))  # type: ignore[arg-type]
    assert memory.fits(whole, 2100, On("cpu"))  # type: ignore[arg-type]


# -- what is free ------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_every_group_above_a_process_may_set_the_limit(tmp_path: Path) -> None:
    of_process = tmp_path / "cgroup"
    of_process.write_text("0::/job/step\n")
    write(tmp_path / "two", memory__max="max\n", memory__current="900\n")
    write(
        tmp_path / "two/job", memory__max="5000\n", memory__current="3000\n", memory__stat="anon 1\ninactive_file 500\n"
    )
    write(tmp_path / "two/job/step", memory__max="9000\n", memory__current="1000\n", memory__stat="anon 1\n")
    assert sorted(memory._free_in_groups(tmp_path / "two", of_process)) == [2500, 8000]


def test_groups_of_the_first_version_and_of_a_container(tmp_path: Path) -> None:
    of_process = tmp_path / "cgroup"
    of_process.write_text("3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n1:name=systemd:/docker/abc\n")
    write(
        tmp_path / "one/memory",
        memory__limit_in_bytes="7000\n",
        memory__usage_in_bytes="3000\n",
        memory__stat="inactive_file 9\ntotal_inactive_file 100\n",
    )
    assert list(memory._free_in_groups(tmp_path / "one", of_process)) == [4100]
    assert list(memory._free_in_groups(tmp_path / "none", of_process)) == []
    assert list(memory._free_in_groups(tmp_path / "one", tmp_path / "no-such-file")) == []


def test_the_smallest_limit_is_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free_in_groups", lambda: iter([5000, 3000]))
    monkeypatch.setattr(memory, "_free_addresses", lambda: iter([4000]))
    assert memory.free_memory(torch.device("cpu")) == 3000
    monkeypatch.setattr(memory, "_free_in_groups", lambda: iter([-5]))
    assert memory.free_memory(torch.device("cpu")) == 0
