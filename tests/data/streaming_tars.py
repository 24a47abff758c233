"""Shards for tests, and what is read from them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bridgeflow.data.pairs import Batch
from bridgeflow.data.rows import Stream
from bridgeflow.data.shards import ShardStream
from bridgeflow.data.webdataset import TarShards, TarStreams, WebDataset
from bridgeflow_plugins.blocks import render_scene

Files = Sequence[tuple[str, bytes]]
Shown = list[tuple[list[int], list[int], list[str]]]


def write_tar(path: Path, files: Files, kind: Any = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def numbered(first: int, count: int) -> Files:
    """Samples whose number is a field of their JSON."""
    return [(f"{n:04d}.json", json.dumps({"number": n}).encode()) for n in range(first, first + count)]


def scene(number: int) -> Files:
    """A scene of the blocks world as the members of a sample."""
    row = render_scene(0, "train", number, 32)
    picture, depth, millimetres = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(row["image"]).save(picture, "PNG")
    np.save(depth, row["depth"])
    Image.fromarray((row["depth"] * 1000).astype(np.uint16)).save(millimetres, "PNG")
    deep = (f"{number:04d}.depth.npy", depth.getvalue())
    return [
        (f"{number:04d}.png", picture.getvalue()),
        deep if number % 2 else (f"{number:04d}.depth.png", millimetres.getvalue()),
        (f"{number:04d}.txt", row["text"].encode()),
        (f"{number:04d}.json", json.dumps({"number": number}).encode()),
    ]


def stream_of(shards: Any, split: Any = "train", **settings: Any) -> ShardStream:
    stream = WebDataset(shards=shards if isinstance(shards, list) else str(shards), **settings).open(split)
    assert isinstance(stream, ShardStream)
    assert isinstance(stream, Stream)
    return stream


def in_shards(folder: Path, seekable: bool, buffer: int = 8) -> ShardStream:
    """All samples of a folder's shards, sought in or only read from the first on."""
    names = [str(path) for path in sorted(folder.glob("*.tar"))]
    shards = TarShards(names) if seekable else TarStreams(names)
    return ShardStream(shards, ("number",), "numbers", "0", buffer)


def numbers(stream: Stream, position: int = 0, epoch: int = 0) -> list[int]:
    return [row["number"] for row in stream.rows_from(position, epoch)]


def own(stream: ShardStream, count: int, position: int = 0, rank: int = 0, world: int = 1) -> list[int]:
    """The next numbers of a process."""
    entries = islice(stream.own_rows(position, 5, rank, world), count)
    return [stream.load(entry.token)["number"] for entry in entries]  # type: ignore[index]


def shown(made: Iterator[Batch], count: int) -> Shown:
    return [
        (batch.source["number"].tolist(), batch.target["number"].tolist(), batch.failures)
        for batch in islice(made, count)
    ]
