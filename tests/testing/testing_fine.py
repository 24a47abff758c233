"""A tiny modality, a tiny task and a tiny tracker without a fault, for the tests to spoil in one place at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item, Latent, LatentSpec, Modality, Progress
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task
from bridgeflow.tracker import TrackedRun, Tracker, TrackerSettings

Numbers = NDArray[np.float32]


class Spoilt(dict[type[Any], tuple[str, str]]):
    """Classes at fault in one place, each with the one check that finds it and words of the sentence."""

    def by(self, check: str, words: str) -> Any:
        """Notes which check has to find the class below."""

        def note(kind: type[Any]) -> type[Any]:
            self[kind] = (check, words)
            return kind

        return note


class FineOptions(Settings):
    """Options of the fine modality."""

    size: int = Field(default=8, ge=2)
    """Positions of the latent; longer items are cut, shorter ones padded."""
    gain: float = Field(default=2.0, gt=0)
    """Factor on the numbers."""


class Fine(Modality):
    """A few numbers in [0, 1]. The latent is the sequence (size, 2) of each number, centred, and its negative."""

    summary = "a few numbers"
    Options: ClassVar[type[Settings]] = FineOptions
    reads = (".npy",)
    writes = ".npy"
    round_trip: ClassVar[float | None] = 1e-5
    options: FineOptions

    def __init__(self, options: FineOptions) -> None:
        super().__init__(options)
        self.signs = nn.Parameter(torch.tensor([1.0, -1.0]), requires_grad=False)
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(()))
        self.count = 0

    @property
    def latent(self) -> LatentSpec:
        return LatentSpec((self.options.size, 2), "sequence")

    def read(self, value: Any) -> Numbers:
        if isinstance(value, np.ndarray):
            return value.astype(np.float32)
        name, file = ("that", io.BytesIO(value)) if isinstance(value, bytes) else (value, value)
        try:
            return np.load(file)
        except (OSError, ValueError, EOFError) as error:
            raise BridgeflowError(f"{name} holds no numbers: give a .npy file.") from error

    def collate(self, items: Sequence[Numbers]) -> dict[str, Tensor]:
        size = self.options.size
        values, real = torch.zeros(len(items), size), torch.zeros(len(items), size, dtype=torch.bool)
        for row, item in enumerate(items):
            kept = torch.from_numpy(item[:size].copy())
            values[row, : len(kept)], real[row, : len(kept)] = kept, True
        return {"values": values, "real": real}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        centred = ((batch["values"] - self.centre) * self.options.gain).where(batch["real"], torch.zeros(()))
        return Latent(centred[..., None] * self.signs, mask=batch["real"])

    def decode(self, latent: Tensor) -> list[Numbers]:
        if latent.shape[1:] != self.latent.shape:
            raise BridgeflowError(f"expected (B, {self.options.size}, 2), not {tuple(latent.shape)}.")
        values = (latent.detach().float() * self.signs).mean(-1) / self.options.gain + self.centre
        return list(values.numpy())

    def write(self, item: Numbers, path: Path) -> list[Path]:
        if path.suffix != ".npy":
            raise BridgeflowError(f"{path}: numbers are written as .npy.")
        np.save(path, item)
        return [path]

    def preview(self, item: Numbers) -> Image.Image:
        return Image.fromarray((item[None] * 255).clip(0, 255).astype(np.uint8)).convert("RGB")

    def example(self, rng: np.random.Generator) -> Numbers:
        return rng.uniform(0.1, 0.9, int(rng.integers(3, 7))).astype(np.float32)

    def extremes(self) -> Mapping[str, Numbers]:
        return {
            "minimum": np.zeros(1, np.float32),
            "maximum": np.ones(8, np.float32),
            "constant": np.full(5, 0.5, np.float32),
            "odd": np.linspace(0, 1, 13, dtype=np.float32),
        }

    @property
    def needs_fit(self) -> bool:
        return self.count == 0

    def fit(self, items: Iterable[Numbers], progress: Progress | None = None) -> dict[str, float]:
        values = np.concatenate(list(items))
        self.centre.fill_(float(values.mean()))
        self.count = len(values)
        return {"std": float(values.std())}

    def fitted_state(self) -> dict[str, Tensor]:
        return {"centre": self.centre} if self.count else {}

    def fitted_facts(self) -> dict[str, Any]:
        return {"count": self.count} if self.count else {}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.centre.copy_(state["centre"])
        self.count = facts["count"]


class FineTask(Task):
    """A small picture becomes its mirror image."""

    summary = "a picture in a mirror"
    source = ModalityUse("image_latent", {"size": 16})
    target = ModalityUse("image_latent", {"size": 16})
    columns: ClassVar[Mapping[str, str]] = {"image": "a picture"}
    default_recipe = "mirror/small"

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        image = self.from_modality.read(row["image"])
        return image, image[:, ::-1].copy()

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        return {"image": rng.integers(256, size=(16, 16, 3), dtype=np.uint8), "note": "of no use"}

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        pairs = zip(results, truths, strict=True)
        return {"error": float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs]))}

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        return "not mirrored", list(sources)


class FineTracker(TrackerSettings):
    """Lines of JSON in a folder of the run."""

    summary: ClassVar[str] = "lines of JSON"
    name: Literal["fine"] = "fine"
    prefix: str = ""
    """What names of figures begin with."""

    def build(self) -> Tracker:
        return Lines(self.prefix)


class Lines(Tracker):
    """Appends a line for each call."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    def start(self, run: TrackedRun) -> None:
        folder = run.folder / "fine"
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.file = (folder / "lines.jsonl").open("a", encoding="utf-8")
        self.file.write(json.dumps({"name": run.name, "first": run.first_step}) + "\n")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.file.write(json.dumps({"step": step, **{self.prefix + key: value for key, value in figures.items()}}))
        self.file.write("\n")
        self.file.flush()

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        picture.save(self.folder / f"{name}-{step}.png")

    def close(self) -> None:
        self.file.close()
