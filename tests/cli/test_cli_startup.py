"""What a command imports: `run` of a model on the embedded data needs torch and little else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Call = Callable[..., Any]

HEAVY = (
    "accelerate",
    "datasets",
    "diffusers",
    "matplotlib",
    "pandas",
    "pyarrow",
    "scipy",
    "sympy",
    "tensorboard",
    "timm",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.onnx",
    "torchdiffeq",
    "torchvision",
    "transformers",
)
"""Modules that take a tenth of a second and more each, some of them longer than torch itself."""

PROGRAM = """
import json, sys
from bridgeflow.cli.main import invoke
code = invoke(sys.argv[2:])
heavy = json.loads(sys.argv[1])
print(json.dumps([code, "torch" in sys.modules, [name for name in heavy if name in sys.modules]]))
"""


def _imports(*command: str) -> tuple[int, bool, list[str]]:
    """Exit code of a command in a process of its own, whether it imported torch, and what heavy modules."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(HEAVY), *command], capture_output=True, text=True, check=True
    )
    code, torch, heavy = json.loads(done.stdout.splitlines()[-1])
    return code, torch, heavy


def test_run_of_a_blocks_model_imports_nothing_heavy_but_torch(bridgeflow: Call) -> None:
    small = ("data.size=16", "data.held_out=4", "data.workers=1", "network.channels=[8]", "network.attention=[]")
    quick = ("training.steps=1", "training.batch_size=2", "training.evaluate=0", "training.sample_every=0")
    trained = bridgeflow("train", "--task", "depth", "--output", "run", *small, *quick, "training.precision=bf16")
    assert trained.code == 0, trained.err
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save("picture.png")
    assert _imports("run", "--task", "depth", "picture.png", "--checkpoint", "run", "-o", "d.npy") == (0, True, [])
    assert np.load(Path("d.npy")).shape == (64, 64)


def test_commands_that_list_import_no_torch() -> None:
    assert _imports("plugins", "list") == (0, False, [])


@pytest.mark.parametrize(("arguments", "code", "words"), [(["--version"], 0, "bridgeflow"), (["trian"], 2, "trian")])
def test_one_of_several_processes_ends_at_once_with_its_code_and_all_that_it_said(
    arguments: list[str], code: int, words: str
) -> None:
    program = "import atexit, sys; atexit.register(print, 'taken down')\nfrom bridgeflow.cli.main import main\nmain()"
    for environment, taken_down in (({"LOCAL_RANK": "1"}, False), ({}, True)):
        plain = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=plain | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code
        assert words in done.stdout + done.stderr
        assert ("taken down" in done.stdout) == taken_down
