"""Runs of each task to generate with, and pipelines of toys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints.checkpoint import Checkpoint
from bridgeflow.config import recipe as recipes
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.runtime.console import Progress
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task
from bridgeflow.training.start import train

COMMON = [
    "data.size=64", "data.held_out=8", "data.workers=1", "training.steps=3", "training.batch_size=4",
    "training.precision=fp32", "training.evaluate=0", "training.sample_every=0", "training.samples=2",
    "training.validation=4", "training.check_memory=false", "sampling.solver.steps=3",
]  # fmt: skip
SMALL_UNET = ["network.channels=[8,16]", "network.blocks=1", "network.attention=[]"]
SMALL_SOURCE = [
    "source_encoder.width=32", "source_encoder.depth=1", "null_rate=0.5", "optimizer.learning_rate=1e-2",
    "training.schedule.warmup=0", "training.steps=12",
]  # fmt: skip
SMALL_DIT = ["network.width=32", "network.depth=1", *SMALL_SOURCE]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of each task, trained for three steps."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGEFLOW_CACHE", str(home / "cache"))
        patch.chdir(home)
        own = {
            "depth": SMALL_UNET,
            "superres": SMALL_UNET,
            "caption": [*SMALL_DIT, "target.codec.steps=30", "target.codec.width=32"],
            "t2i": [*SMALL_UNET, *SMALL_SOURCE, "target.codec.steps=4"],
        }
        for task, overrides in own.items():
            train(recipes.load(f"{task}/blocks", [*COMMON, *overrides]), device="cpu", console=Progress(quiet=True))
        yield home


@pytest.fixture
def home(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(runs / "cache"))
    monkeypatch.chdir(runs)
    return runs


class ToyOptions(Settings):
    """No options."""


class Toy(Modality):
    """Random numbers, counted whenever they are encoded, decoded or unloaded."""

    def __init__(self, shape: tuple[int, ...] = (1, 4, 4)) -> None:
        super().__init__(ToyOptions())
        self.shape = shape
        self.calls: list[str] = []

    @property
    def latent(self) -> LatentSpec:
        return LatentSpec(self.shape, "sequence" if len(self.shape) == 2 else "grid")

    def read(self, value: Any) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(int(value)))

    def collate(self, items: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"values": torch.stack(list(items))}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        self.calls.append(f"encode {len(batch['values'])}")
        return Latent(batch["values"].double(), mask=None)

    def decode(self, latent: Tensor) -> list[Tensor]:
        self.calls.append(f"decode {len(latent)}")
        return list(latent)

    def unload(self) -> None:
        self.calls.append("unload")

    def preview(self, item: Tensor) -> Image.Image:
        return Image.new("RGB", (4, 4))


class Halves(Task):
    """A tensor (N, 1, 4, 4) is computed in N pieces; any other as it is."""

    source = ModalityUse("toy")
    target = ModalityUse("toy")

    def split(self, item: Tensor) -> list[Tensor]:
        return list(item) if item.ndim == 4 else [item]

    def join(self, results: Sequence[Tensor], item: Tensor) -> Tensor:
        return torch.stack(list(results)) if item.ndim == 4 else results[0]


BRIDGES = {
    "direct": "{name: direct}",
    "deterministic": "{name: deterministic, width: 16, depth: 1, heads: 2, target_patch: 2}",
    "noisy": "{name: noisy, sigma: 0.3, width: 16, depth: 1, heads: 2, target_patch: 2, mean_norm: batch}",
    "variational": "{name: variational, width: 16, depth: 1, heads: 2, target_patch: 2}",
    "noise": "{name: noise}",
}
"""Source encoders by name, of a size for tests."""

Build = Callable[..., Assembly]


@pytest.fixture
def build() -> Build:
    """Makes an assembly of toys: `build("variational", "sampling.batch_size=2")`."""

    def make(encoder: str = "variational", *overrides: str, shape: tuple[int, ...] = (1, 4, 4)) -> Assembly:
        # The recipe of a task that is installed, with other modalities than the recipe names.
        settings = [
            f"source_encoder={BRIDGES.get(encoder, encoder)}",
            "network={name: dit, width: 16, depth: 1, heads: 2, patch: 2}",
            "null_rate=0.5",
            "encoding.name=none",
            "training.precision=fp32",
            *overrides,
        ]
        recipe = recipes.load("t2i/blocks", settings)
        return Assembly(replace(recipe, task=Halves), Halves(recipe.options, Toy(shape), Toy()))

    return make


@pytest.fixture
def pipeline_of(build: Build) -> Callable[..., Pipeline]:
    """A pipeline of toys with random weights, none of them zero."""

    def make(encoder: str = "variational", *overrides: str, **options: Any) -> Pipeline:
        assembly = build(encoder, *overrides)
        return Pipeline(assembly, random_bridge(assembly), **options)

    return make


def random_bridge(assembly: Assembly) -> Bridge:
    """A bridge in which everything is at work: a fresh one has zeros where training starts."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bridge = assembly.build_bridge().eval()
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        for name, buffer in bridge.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=draw))
    return bridge


Save = Callable[..., tuple[Checkpoint, Bridge]]


@pytest.fixture
def save_random(tmp_path: Path) -> Save:
    """Writes a checkpoint of random weights, with its bridge: `save_random(assembly, low=True)` in bfloat16."""

    def save(assembly: Assembly, low: bool = False) -> tuple[Checkpoint, Bridge]:
        bridge = random_bridge(assembly)
        tensors = {
            name: tensor.bfloat16() if low and tensor.is_floating_point() else tensor
            for name, tensor in bridge.state_dict().items()
        }
        save_file(tensors, tmp_path / "model.safetensors")
        return Checkpoint(tmp_path, {"step": 1}), bridge

    return save
