"""The files of a cache: whole or absent, read as they were written, and what verify finds."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bridgeflow.assembly import Assembly
from bridgeflow.caching.encoding import encode_shard
from bridgeflow.caching.index import Index, read_index, write_index
from bridgeflow.caching.reading import Chunk
from bridgeflow.caching.shards import ShardReader, shard_path, tensor_of, write_shard
from bridgeflow.caching.verify import verify
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.runtime.durable import checksum
from bridgeflow.settings import Settings
from bridgeflow.task import Task


class Words(Modality):
    """A stochastic codec of sequences: the latent of x is x, 2x; what it saw is x alone."""

    @property
    def latent(self) -> LatentSpec:
        return LatentSpec((2, 1), "sequence")

    def read(self, value: Any) -> float:
        return float(value)

    def collate(self, items: Sequence[float]) -> dict[str, Tensor]:
        return {"x": torch.tensor(items)}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        x = batch["x"][:, None, None]
        mean = torch.cat([x, 2 * x], 1)
        return Latent(mean, std=mean.abs() + 0.5, mask=torch.tensor([[True, False]]).expand(len(x), 2))

    def observed(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["x"][:, None] - 1

    def preview(self, item: float) -> Image.Image:
        raise NotImplementedError


@pytest.fixture
def assembly() -> Assembly:
    words = Words(Settings())
    return Assembly(None, Task(Settings(), words, words))  # type: ignore[arg-type]


def chunk(numbers: dict[int, float]) -> Chunk:
    batch = {"x": torch.tensor(list(numbers.values()))}
    names = {index: f"file {index}" for index in numbers}
    return Chunk([batch, {"x": batch["x"] + 100}], [batch, batch], names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_part_of_a_latent_comes_back(assembly: Assembly, tmp_path: Path, dtype: torch.dtype) -> None:
    chunks = [chunk({4: 1.0, 6: 3.0}), Chunk(failures={7: "torn"}), chunk({9: 5.0})]
    encoded = encode_shard(chunks, assembly, torch.device("cpu"), dtype, observed=True)
    assert (encoded.kept, encoded.failures) == ([4, 6, 9], {7: "torn"})
    write_shard(tmp_path / "a/0.safetensors", encoded.tensors)
    read = {name: tensor_of(array.copy()) for name, array in ShardReader(tmp_path / "a/0.safetensors").arrays.items()}
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == {
        **{f"{side}.{part}": (2, 3, 2, 1) for side in ("source", "target") for part in ("mean", "std")},
        "source.mask": (2, 3, 2),
        "target.mask": (2, 3, 2),
        "target.observed": (2, 3, 1),
    }
    assert read["source.mean"][0, :, :, 0].tolist() == [[1, 2], [3, 6], [5, 10]]
    assert read["source.mean"][1, :, 0, 0].tolist() == [101, 103, 105]
    assert read["source.std"][0, 1, :, 0].tolist() == [3.5, 6.5]
    assert read["source.mask"][0].tolist() == [[True, False]] * 3
    assert read["target.observed"][1, :, 0].tolist() == [0, 2, 4]
    assert {tensor.dtype for tensor in read.values()} == {dtype, torch.bool}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["0.safetensors"]


def test_a_row_whose_latent_is_not_finite_is_left_out_and_named(assembly: Assembly) -> None:
    rows = [chunk({0: 1.0, 1: float("nan"), 2: 40000.0, 3: 2.0})]
    encoded = encode_shard(rows, assembly, torch.device("cpu"), torch.float16, observed=False)
    assert encoded.kept == [0, 3]
    assert encoded.tensors["target.mean"][0, :, 0, 0].tolist() == [1, 2]
    assert "file 1: its source latent holds numbers that are not finite" in encoded.failures[1]
    assert "in float16: fix the row, or cache in --dtype float32" in encoded.failures[2]
    wide = encode_shard(rows, assembly, torch.device("cpu"), torch.float32, observed=False)
    assert wide.kept == [0, 2, 3]


def test_a_damaged_file_is_refused_and_a_reader_travels(tmp_path: Path) -> None:
    path = tmp_path / "0.safetensors"
    write_shard(path, {"source.mean": torch.arange(6.0).reshape(1, 3, 2)})
    again = pickle.loads(pickle.dumps(ShardReader(path)))
    assert again.arrays["source.mean"].tolist() == [[[0, 1], [2, 3], [4, 5]]]
    whole = path.read_bytes()
    for content in (b"", whole[:20], whole[:-4], b"\xff" * 200, whole.replace(b"F32", b"I64")):
        path.write_bytes(content)
        with pytest.raises(BridgeflowError, match=r"damaged or missing .* bridgeflow cache verify"):
            ShardReader(path)
    path.unlink()
    with pytest.raises(BridgeflowError, match="damaged or missing"):
        ShardReader(path)


def test_verify_names_each_fault(enlarging: Recipe, make: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    index = make(enlarging, folder).index
    assert verify(folder, index) == []
    shards = [shard_path(folder, "train", number) for number in range(5)]
    spoilt = bytearray(shards[0].read_bytes())
    spoilt[-1] ^= 1
    shards[0].write_bytes(spoilt)
    shards[1].write_bytes(shards[1].read_bytes()[:-10])
    shards[2].unlink()
    tensors = {name: tensor_of(array.copy()) for name, array in ShardReader(shards[3]).arrays.items()}
    write_shard(shards[3], {**tensors, "target.mean": torch.full_like(tensors["target.mean"], np.inf)})
    shapes = {name: tensor_of(array.copy())[:, :-1] for name, array in ShardReader(shards[4]).arrays.items()}
    write_shard(shards[4], shapes)
    train = [
        shard.model_copy(update={"checksum": checksum(path), "bytes": path.stat().st_size})
        if number in (3, 4)
        else shard
        for number, (shard, path) in enumerate(zip(index.shards["train"], shards, strict=True))
    ]
    write_index(folder, index.model_copy(update={"shards": {**index.shards, "train": tuple(train)}}))
    faults = verify(folder, read_index(folder))
    expected = ["000000.safetensors is not what was written", "000001.safetensors has", "000002.safetensors cannot be"]
    expected += ["000003.safetensors: target.mean holds numbers that are not finite", "000004.safetensors: source.mean"]
    expected += ["000004.safetensors: target.mean has shape (1, 5, 3, 16, 16), where (1, 6, 3, 16, 16) is expected"]
    assert len(faults) == len(expected)
    for fault, part in zip(faults, expected, strict=True):
        assert part in fault


def test_an_index_that_is_none_is_refused(enlarging: Recipe, make: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    index: Index = make(enlarging, folder).index
    for content, part in (
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"format": 1}', "keys are not as expected"),
        (b'{"format": 9, "bridgeflow": "7.0"}', r"has format 9, but this bridgeflow reads 1: .*made it \(7\.0\)"),
    ):
        (folder / "index.json").write_bytes(content)
        with pytest.raises(BridgeflowError, match=part):
            read_index(folder)
    write_index(folder, index)
    assert read_index(folder) == index
    with pytest.raises(BridgeflowError, match=r"there is no cache in .*nowhere.*: make one with bridgeflow cache"):
        read_index(tmp_path / "nowhere")
