"""A modality and a task small enough to see through: an item is a number, its latent the number itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from streaming_tars import numbered, scene, write_tar
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task


class Number(Modality):
    """Whole numbers; a negative one cannot be read."""

    @property
    def latent(self) -> LatentSpec:
        return LatentSpec((1, 1), "grid")

    def read(self, value: Any) -> int:
        if value < 0:
            raise BridgeflowError(f"{value} is negative: numbers from 0 on are expected.")
        return int(value)

    def collate(self, items: Sequence[int]) -> dict[str, Tensor]:
        return {"number": torch.tensor(items)}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        return Latent(batch["number"].float().reshape(-1, 1, 1))

    def preview(self, item: int) -> Image.Image:
        return Image.new("RGB", (1, 1))


class Squares(Task):
    """The number of a row, and a draw that belongs to its place in the run."""

    source = ModalityUse("number")
    target = ModalityUse("number")
    columns = {"number": "a whole number"}

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[int, int]:
        return self.from_modality.read(row["number"]), int(rng.integers(1 << 30))


class NumberRows:
    """Rows of known length."""

    columns = ("number",)
    fingerprint = "numbers"
    description = "numbers for tests"

    def __init__(self, numbers: Sequence[int | None]) -> None:
        self.numbers = list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"number": self.numbers[index]}


class NumberStream:
    """The same as a stream; an epoch turns the order round."""

    columns = ("number",)
    fingerprint = "numbers"
    description = "a stream of numbers"

    def __init__(self, numbers: Sequence[int | None]) -> None:
        self.numbers = list(numbers)

    def rows_from(self, position: int, epoch: int) -> Iterator[dict[str, Any]]:
        order = self.numbers[::-1] if epoch % 2 else self.numbers
        yield from ({"number": number} for number in order[position:])


@pytest.fixture
def squares() -> Task:
    """The task, ready to pair rows."""
    return Squares(Settings(), Number(Settings()), Number(Settings()))


@pytest.fixture
def rows() -> type[NumberRows]:
    """Makes rows from numbers."""
    return NumberRows


@pytest.fixture
def stream() -> type[NumberStream]:
    """Makes a stream from numbers."""
    return NumberStream


@pytest.fixture
def lengths_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lengths of shards that a test counts are kept for that test alone."""
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path / "kept"))


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Samples 0 to 102 in six shards of unequal lengths."""
    first = 0
    for shard, count in enumerate((20, 11, 25, 17, 5, 25)):
        write_tar(tmp_path / "shards" / f"{shard:03d}.tar", numbered(first, count))
        first += count
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 scenes in four shards."""
    folder = tmp_path_factory.mktemp("scenes")
    for shard in range(4):
        files = [file for number in range(10 * shard, 10 * shard + 10) for file in scene(number)]
        write_tar(folder / f"{shard:03d}.tar", files)
    return folder
