"""Whole commands: cold starts, the loader's share, one process against two, the renderer."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench_measure import Figure, Work, dtypes, in_turns, of_values, ratio

WAIT_BAR = "<= 3"
SMALL = ("data.size=1024", "data.held_out=16", "training.evaluate=0", "training.sample_every=0", "training.samples=2")


def _call(*arguments: str, threads: int | None = None) -> Work:
    environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def call() -> None:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment
        )
        if done.returncode:
            raise SystemExit(f"python {' '.join(arguments)} failed:\n{done.stderr}")

    return call


def _train(task: str, folder: Path, *options: str, processes: int = 1, threads: int | None = None) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    program = [*launcher, "-m", "bridgeflow", "train", "--task", task, "--device", "cpu", "--output", str(folder)]
    _call(*program, *SMALL, *options, threads=threads)()


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def cold_starts() -> list[Figure]:
    """A process that runs a blocks model on one picture, against one that imports torch; and the help."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(folder / "picture.png")
        _train("depth", folder / "run", "training.steps=2", "training.precision=fp32")
        run = ("-m", "bridgeflow", "run", "--task", "depth", str(folder / "picture.png"))
        load = "import sys, bridgeflow; bridgeflow.load(sys.argv[1]).bridge"
        works = {
            "run": _call(*run, "--checkpoint", str(folder / "run"), "-o", str(folder / "depth.npy")),
            "import torch": _call("-c", "import torch"),
            "load": _call("-c", load, str(folder / "run")),
            "--help": _call("-m", "bridgeflow", "--help"),
            "plugins list": _call("-m", "bridgeflow", "plugins", "list"),
            "python": _call("-c", "pass"),
        }
        times = in_turns(works, 7)
    return [
        ratio(
            "cold `bridgeflow run` of depth/blocks / `python -c 'import torch'`", "run", "import torch", times, "<= 1.6"
        ),
        ratio("the same / a process that loads the model and runs nothing", "run", "load", times),
        ratio("`bridgeflow --help` / `python -c pass`", "--help", "python", times),
        ratio("`bridgeflow plugins list` / `python -c pass`", "plugins list", "python", times),
    ]


def data_wait() -> list[Figure]:
    """Share of a training step spent waiting for the next batch, read in the training process (training.workers=0)."""
    figures = []
    for task, *options in (
        ("depth",),
        ("t2i", "data.size=256", "target.codec.steps=10"),
        ("caption", "target.codec.steps=10"),
    ):
        with tempfile.TemporaryDirectory() as name:
            _train(task, Path(name) / "run", "training.steps=15", "training.log_every=1", *options)
            waits = [100 * line["data_wait"] for line in _lines(Path(name) / "run")][5:]
        figures.append(of_values(f"data wait of {task}/blocks, workers 0, its own precision", waits, "%", WAIT_BAR))
    return figures


def processes() -> list[Figure]:
    """Pairs per second of two processes with a batch of 8 against one with 16, each process on one thread."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for count in rates:
            with tempfile.TemporaryDirectory() as name:
                options = ("training.steps=12", "data.size=256", "training.log_every=1", "training.precision=fp32")
                batch = f"training.batch_size={16 // count}"
                _train("depth", Path(name) / "run", *options, batch, processes=count, threads=1)
                rates[count].append(
                    statistics.median(line["pairs_per_second"] for line in _lines(Path(name) / "run")[5:])
                )
    pairs: Sequence[float] = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    what = "pairs/s of depth/blocks, 2 processes x batch 8 / 1 process x batch 16, a thread each"
    return [of_values(what, pairs, "x")]


def rendering() -> list[Figure]:
    """Scenes a second that the embedded data set renders and writes, on all cores."""
    from bridgeflow_plugins.blocks import Blocks

    rates = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as cache:
            start = time.perf_counter()
            Blocks(size=1024, cache=cache).open("train")
            rates.append(1024 / (time.perf_counter() - start))
    return [of_values("rendering blocks scenes at 64x64, all cores, written to disk", rates, "img/s")]


def compiling() -> list[Figure]:
    """A training step of the DiT as written and compiled by torch.compile; minutes, so only when asked for."""
    import torch

    from bridgeflow.modality import LatentSpec
    from bridgeflow.nn.dit import DiTSettings
    from bridgeflow.training.step_options import compile_network
    from tests.bench_measure import training_step

    figures = []
    for kind in dtypes():
        torch.manual_seed(0)
        plain, compiled = (DiTSettings(patch=2).build(LatentSpec((4, 32, 32), "grid")) for _ in range(2))
        compile_network(compiled, torch.device("cpu"))
        works = {
            "as written": training_step(plain, (4, 32, 32), 8, kind == "bf16"),
            "compiled": training_step(compiled, (4, 32, 32), 8, kind == "bf16"),
        }
        start = time.perf_counter()
        works["compiled"]()
        seconds = time.perf_counter() - start
        what = f"training step of DiT 256x6, batch 8, {kind}, as written / compiled (compiling took {seconds:.0f} s)"
        figures.append(ratio(what, "as written", "compiled", in_turns(works)))
    return figures
