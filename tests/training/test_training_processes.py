"""Several processes train as one does: the same losses, the same checkpoint, whatever their number."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.warm import Warm

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


def launched(processes: int, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Trains by torch's launcher, in processes that import torch each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "bridgeflow"]
    line = [sys.executable, *launcher, *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """A process that has waited for torch already, for all others to fork from."""
    own = Warm(Path(sys.executable), {**os.environ, "OMP_NUM_THREADS": "1"})
    yield own
    own.close()


@dataclass
class Processes:
    """Trains in several processes, as a launcher starts them but for the waiting: they begin with torch imported."""

    warm: Warm
    folder: Path

    def start(
        self, processes: int, batch: int, output: Path, *more: str, sharded: bool = False, module: str = "bridgeflow"
    ) -> subprocess.CompletedProcess[str]:
        """The exit code of the first that fails, and what all have written."""
        arguments = arguments_of(batch, output, *more)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {**environment_of(sharded), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if processes > 1:
            common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        started = [
            subprocess.Popen(
                [*self.warm.line, module, *arguments],
                env={**common, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})},
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=(self.folder / f"{rank}.err").open("w"),
                text=True,
            )
            for rank in range(processes)
        ]
        out = "".join(process.communicate(timeout=240)[0] for process in started)
        code = max(process.returncode for process in started)
        told = "".join((self.folder / f"{rank}.err").read_text() for rank in range(processes))
        return subprocess.CompletedProcess(arguments, code, out, told)

    def train(self, processes: int, batch: int, output: Path, *more: str, **how: Any) -> str:
        """Trains to the end; what was told."""
        done = self.start(processes, batch, output, *more, **how)
        assert done.returncode == 0, done.stderr
        return done.stderr


@pytest.fixture
def processes(warm: Warm, tmp_path: Path) -> Processes:
    """Starts trainings from the test's own folder."""
    return Processes(warm, tmp_path)


def arguments_of(batch: int, output: Path, *more: str) -> list[str]:
    """Those of a training on the CPU."""
    line = ["train", "--task", "depth", "--device", "cpu", f"training.batch_size={batch}", "--output", str(output)]
    return [*line, *more]


def environment_of(sharded: bool) -> dict[str, str]:
    """Variables of a training, whose weights are sharded or not."""
    fsdp = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if sharded else {}
    return {**os.environ, "OMP_NUM_THREADS": "1", **fsdp}


def curve(folder: Path, figure: str) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[figure] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"{STEPS:06d}" / "ema.safetensors")


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A module that is `bridgeflow` with a fault."""

    def module(fault: str) -> str:
        monkeypatch.setenv("FAULT", fault)
        (tmp_path / "faulty.py").write_text(FAULTY)
        return "faulty"

    return module


@pytest.fixture(scope="module")
def alone(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with 16 pairs a step."""
    home = tmp_path_factory.mktemp("alone")
    Processes(warm, home).train(1, 16, home / "run", *RECIPE)
    return home / "run"


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_as_one_with_twice_the_batch(
    alone: Path, tmp_path: Path, sharded: bool, faulty: Callable[[str], str], processes: Processes
) -> None:
    # A signal that reaches one of them in the last step finds nothing left to stop.
    told = processes.train(2, 8, tmp_path / "two", *RECIPE, sharded=sharded, module=faulty("signal"))
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
    """Started as people start it, by torch's launcher."""
    run = tmp_path / "run"
    for kept in ("recipe.yaml", f"checkpoints/{STEPS // 2:06d}", "metrics.jsonl"):
        (run / kept).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (alone / kept).is_dir() else shutil.copy)(alone / kept, run / kept)
    done = launched(2, *arguments_of(8, run, "--resume"), environment=environment_of(True))
    assert done.returncode == 0, done.stderr
    told = done.stderr
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
    fault: str, what: str, sharded: bool, tmp_path: Path, faulty: Callable[[str], str], processes: Processes
) -> None:
    """One has a shard of a gradient that is not finite, which no other sees; or it alone writes checkpoints."""
    done = processes.start(2, 4, tmp_path / "run", *RECIPE, *SHORT, sharded=sharded, module=faulty(fault))
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("bridgeflow: ")]
    assert len(told) == 2
    first = tmp_path / "run" / "checkpoints" / "000001"
    for sentence in told:
        assert sentence.startswith(
            f"bridgeflow: the {what} is no longer finite at step 2; the weights of step 1 are safe in {first}: "
        )
    assert list(first.parent.iterdir()) == [first]
