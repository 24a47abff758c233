"""Several processes train as one does: the same losses, the same checkpoint, whatever their number."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed

STEPS = 20
RECIPE = (
    "data.size=64",
    "data.held_out=8",
    "data.workers=1",
    "source.size=16",
    "target.size=16",
    "source_encoder={name: variational, width: 32, heads: 2, depth: 1, patch: 4, target_patch: 4, mean_norm: batch}",
    "network={name: dit, width: 32, depth: 2, heads: 2, patch: 4}",
    "encoding.name=cross",
    "null_rate=0.4",
    "training.precision=fp32",
    "training.sample_every=0",
    "training.samples=2",
    "training.evaluate=4",
    "training.log_every=1",
    "training.schedule.warmup=2",
    f"training.steps={STEPS}",
    f"training.checkpoint_every={STEPS // 2}",
)
BRIDGEFLOW = ("-m", "bridgeflow")
FIGURES = ("train/loss", "train/flow", "train/encoding", "train/kl")

FAULTY = """
import math, os, signal
from bridgeflow.cli.main import main
from bridgeflow.training import loop, sharding

RANK = int(os.environ["RANK"])
backward, step = loop.Trainer._backward, loop.Trainer._train_step

def spoil_gradient(self, *latents):
    losses = backward(self, *latents)
    if self.step == 1 and RANK == 1:
        sharding.local(self.bridge.get_parameter("network.blocks.0.mlp.0.weight").grad).view(-1)[0] = math.nan
    return losses

def spoil_average(self, data):
    done = step(self, data)
    if self.step == 1 and RANK == 0:
        self.average.module.get_parameter("network.head.bias").data[0] = math.inf
    return done

def signalled(self, data):
    if self.step + 1 == self.settings.steps and RANK == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, data)

fault = os.environ["FAULT"]
if fault == "gradient":
    loop.Trainer._backward = spoil_gradient
else:
    loop.Trainer._train_step = {"average": spoil_average, "signal": signalled}[fault]
main()
"""


def start(
    processes: int, batch: int, folder: Path, *more: str, sharded: bool = False, program: tuple[str, ...] = BRIDGEFLOW
) -> subprocess.CompletedProcess[str]:
    """Trains in as many processes."""
    arguments = [*program, "train", "--task", "depth", "--device", "cpu", f"training.batch_size={batch}"]
    arguments += ["--output", str(folder), *more]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sharded:
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def train(processes: int, batch: int, folder: Path, *more: str, **how: Any) -> str:
    """Trains in as many processes to the end; what was told."""
    done = start(processes, batch, folder, *more, **how)
    assert done.returncode == 0, done.stderr
    return done.stderr


def curve(folder: Path, figure: str) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[figure] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"{STEPS:06d}" / "ema.safetensors")


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str]]:
    """A program that is `bridgeflow` with a fault."""

    def program(fault: str) -> tuple[str]:
        monkeypatch.setenv("FAULT", fault)
        (tmp_path / "faulty.py").write_text(FAULTY)
        return (str(tmp_path / "faulty.py"),)

    return program


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with 16 pairs a step."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(1, 16, folder, *RECIPE)
    return folder


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_as_one_with_twice_the_batch(
    alone: Path, tmp_path: Path, sharded: bool, faulty: Callable[[str], tuple[str]]
) -> None:
    # A signal that reaches one of them in the last step finds nothing left to stop.
    told = train(2, 8, tmp_path / "two", *RECIPE, sharded=sharded, program=faulty("signal"))
    for figure in FIGURES:
        expected, found = curve(alone, figure), curve(tmp_path / "two", figure)
        assert len(found) == STEPS
        assert max(expected) - min(expected) > 0.1
        assert found == pytest.approx(expected, abs=1e-4, rel=2e-5)
    # The main process measures it for all, with the whole average.
    last = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (alone, tmp_path / "two")]
    assert last[1]["val/loss"] == pytest.approx(last[0]["val/loss"], rel=1e-3)
    norms = curve(alone, "grad_norm")
    assert curve(tmp_path / "two", "grad_norm") == pytest.approx(norms, rel=1e-3)
    whole, own = weights(alone), weights(tmp_path / "two")
    assert {key: tensor.shape for key, tensor in own.items()} == {key: tensor.shape for key, tensor in whole.items()}
    # The bias before the standardising norm does nothing, and follows the noise of rounding.
    matrices = [key for key in whole if key.endswith("weight")]
    assert max(float((own[key] - whole[key]).abs().max()) for key in matrices) < 1e-3
    assert told.count("done in") == 1
    assert (tmp_path / "two" / "evaluation.json").is_file()


def test_a_run_goes_on_with_other_numbers_of_processes(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for kept in ("recipe.yaml", f"checkpoints/{STEPS // 2:06d}", "metrics.jsonl"):
        (run / kept).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (alone / kept).is_dir() else shutil.copy)(alone / kept, run / kept)
    told = train(2, 8, run, "--resume", sharded=True)
    assert told.count(f"going on from step {STEPS // 2}") == 1
    for figure in FIGURES:
        assert curve(run, figure) == pytest.approx(curve(alone, figure), abs=1e-4, rel=2e-5)


SHORT = (
    "training.steps=3",
    "training.checkpoint_every=1",
    "training.keep=1",
    "training.clip=null",
    "encoding.name=none",
)


@pytest.mark.parametrize(
    ("fault", "what", "sharded"),
    [
        ("gradient", "gradient", True),
        ("average", "tensor 'network.head.bias' of ema.safetensors", False),
    ],
    ids=["gradient", "average"],
)
def test_what_one_process_finds_unsound_ends_all_of_them(
    fault: str, what: str, sharded: bool, tmp_path: Path, faulty: Callable[[str], tuple[str]]
) -> None:
    """One has a shard of a gradient that is not finite, which no other sees; or it alone writes checkpoints."""
    done = start(2, 4, tmp_path / "run", *RECIPE, *SHORT, sharded=sharded, program=faulty(fault))
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("bridgeflow: ")]
    assert len(told) in (1, 2), "the launcher ends the other one where it is slower"
    first = tmp_path / "run" / "checkpoints" / "000001"
    for sentence in told:
        assert sentence.startswith(
            f"bridgeflow: the {what} is no longer finite at step 2; the weights of step 1 are safe in {first}: "
        )
    assert list(first.parent.iterdir()) == [first]
