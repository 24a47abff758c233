"""Several processes train as one does: the same losses, the same checkpoint, whatever their number."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

STEPS = 20
RECIPE = (
    "data.size=64",
    "data.held_out=8",
    "data.workers=1",
    "source.size=16",
    "target.size=16",
    "source_encoder={name: variational, width: 32, heads: 2, depth: 1, patch: 4, target_patch: 4, mean_norm: batch}",
    "network={name: dit, width: 32, depth: 2, heads: 2, patch: 4}",
    "encoding.kind=cross",
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
FIGURES = ("loss", "flow", "encoding", "kl")


def train(processes: int, batch: int, folder: Path, *more: str, sharded: bool = False) -> str:
    """Trains in as many processes; what was told."""
    program = ["-m", "bridgeflow", "train", "--task", "depth", "--device", "cpu", f"training.batch_size={batch}"]
    program += ["--output", str(folder), *more]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sharded:
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def curve(folder: Path, figure: str) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[figure] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"{STEPS:06d}" / "ema.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with 16 pairs a step."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(1, 16, folder, *RECIPE)
    return folder


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_as_one_with_twice_the_batch(alone: Path, tmp_path: Path, sharded: bool) -> None:
    told = train(2, 8, tmp_path / "two", *RECIPE, sharded=sharded)
    for figure in FIGURES:
        expected, found = curve(alone, figure), curve(tmp_path / "two", figure)
        assert len(found) == STEPS
        assert max(expected) - min(expected) > 0.1
        assert found == pytest.approx(expected, abs=1e-4, rel=2e-5)
    whole, own = weights(alone), weights(tmp_path / "two")
    assert {key: tensor.shape for key, tensor in own.items()} == {key: tensor.shape for key, tensor in whole.items()}
    # The bias before the standardising norm does nothing, and follows the noise of rounding.
    matrices = [key for key in whole if key.endswith("weight")]
    assert max(float((own[key] - whole[key]).abs().max()) for key in matrices) < 1e-3
    assert told.count("done in") == 1


def test_a_run_goes_on_with_other_numbers_of_processes(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for kept in ("recipe.yaml", f"checkpoints/{STEPS // 2:06d}", "metrics.jsonl"):
        (run / kept).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (alone / kept).is_dir() else shutil.copy)(alone / kept, run / kept)
    told = train(2, 8, run, "--resume", sharded=True)
    assert told.count(f"going on from step {STEPS // 2}") == 1
    for figure in FIGURES:
        assert curve(run, figure) == pytest.approx(curve(alone, figure), abs=1e-4, rel=2e-5)
