"""Rows shared out in shards: those of a stream, and those that cannot be brought into a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bridgeflow.caching.reading import Chunk, PairRows, batched, read_shards, stream_shards
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.settings import Settings
from bridgeflow.task import Task


class Short(Modality):
    """Numbers below 100 fit into a batch."""

    @property
    def latent(self) -> LatentSpec:
        return LatentSpec((1, 1), "grid")

    def read(self, value: Any) -> int:
        if value < 0:
            raise BridgeflowError(f"{value} is negative: numbers from 0 on are expected.")
        return int(value)

    def collate(self, items: Sequence[int]) -> dict[str, Tensor]:
        if max(items) >= 100:
            raise BridgeflowError("it is too large: numbers below 100 are expected.")
        return {"x": torch.tensor(items)}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        return Latent(batch["x"].float().reshape(-1, 1, 1))

    def preview(self, item: int) -> Image.Image:
        raise NotImplementedError


class Drawn(Task):
    columns = {"n": "a number"}

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[int, int]:
        return self.from_modality.read(row["n"]), int(rng.integers(100))


class Numbers:
    columns = ("n",)
    fingerprint = "numbers"
    description = "numbers"

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self.read: list[int] = []

    def rows_from(self, position: int, epoch: int) -> Iterator[dict[str, Any]]:
        for number in self.numbers[position:]:
            self.read.append(number)
            yield {"n": number}


class ListedNumbers(Numbers):
    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"n": self.numbers[index]}


@pytest.fixture
def pair() -> PairRows:
    return PairRows(Drawn(Settings(), Short(Settings()), Short(Settings())), {}, "train", 1)


def kept(chunks: list[Chunk]) -> list[int]:
    return [index for chunk in chunks for index in chunk.kept]


@pytest.mark.parametrize("count", [1, 9, 10, 11, 20, 21])
def test_a_stream_of_any_length_is_shared_out_whole(pair: PairRows, count: int) -> None:
    seen: dict[int, list[int]] = {}
    for rank in (0, 1):
        told = list(stream_shards(Numbers(range(count)), frozenset(), rank, 2, 5, 2, pair))
        first = 0 if rank == 0 else 1
        assert [number for number, _, _ in told] == list(range(first, -(-count // 5)))
        for number, read, chunks in told:
            assert (chunks is not None) == (number % 2 == rank)
            if chunks is not None:
                seen[number] = kept(chunks)
                assert len(seen[number]) == read
                assert all(len(chunk.kept) <= 2 for chunk in chunks)
    assert [index for number in sorted(seen) for index in seen[number]] == list(range(count))


def test_a_stream_goes_on_at_the_first_missing_shard(pair: PairRows) -> None:
    stream = Numbers(range(23))
    told = list(stream_shards(stream, frozenset({0, 1, 3}), 0, 1, 5, 2, pair))
    assert [(number, chunks is not None) for number, _, chunks in told] == [(2, True), (3, False), (4, True)]
    assert stream.read[0] == 10


def test_a_stream_and_rows_give_the_same_chunks(pair: PairRows) -> None:
    numbers = [3, 5, -1, 7, 150, 9, 11]
    rows = list(read_shards(ListedNumbers(numbers), [0, 1], 5, 3, pair, 0))
    stream = list(stream_shards(Numbers(numbers), frozenset(), 0, 1, 5, 3, pair))
    for (number, read, own), (other, as_many, streamed) in zip(rows, stream, strict=True):
        assert streamed is not None
        assert (number, read, kept(own)) == (other, as_many, kept(streamed))
        for chunk, same in zip(own, streamed, strict=True):
            assert chunk.failures == same.failures
            assert [batch["x"].tolist() for batch in chunk.target] == [batch["x"].tolist() for batch in same.target]
    assert [kept(chunks) for _, _, chunks in rows] == [[0, 1, 3], [5, 6]]


def test_what_cannot_be_collated_is_found_among_its_neighbours(pair: PairRows) -> None:
    chunk = pair([(0, {"n": 4}), (1, {"n": 400}), (2, {"n": 6}), (3, BridgeflowError("d.png is gone."))])
    assert isinstance(chunk, Chunk)
    assert chunk.source[0]["x"].tolist() == [4, 6]
    assert chunk.failures == {
        1: "row 1: it is too large: numbers below 100 are expected.",
        3: "d.png is gone.",
    }


def test_batched() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []
