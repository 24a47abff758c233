"""Rendering many scenes, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridgeflow.data.rows import Split
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.blocks.render import render_scene


@dataclass(frozen=True)
class World:
    """The scenes of one split: which ones, and at what resolution in pixels."""

    seed: int
    split: Split
    count: int
    resolution: int

    @property
    def chunk(self) -> int:
        """Scenes that are rendered and stored together: about two megabytes of them."""
        return max(1, 64 * 64 * 64 // self.resolution**2)

    def chunks(self) -> list[range]:
        """The scene numbers of every chunk."""
        return [range(at, min(at + self.chunk, self.count)) for at in range(0, self.count, self.chunk)]


@dataclass(frozen=True)
class Chunk:
    """Rendered scenes, one a row: bytes of images, depths and masks, sums that tell damage, and captions."""

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    objects: NDArray[np.uint8]
    check: NDArray[np.uint32]
    text: list[str]


def row_check(row: dict[str, Any]) -> int:
    """A 32-bit sum over all that a row holds."""
    total = zlib.adler32(row["image"])
    total = zlib.adler32(row["depth"], total)
    total = zlib.adler32(row["objects"], total)
    return zlib.adler32(row["text"].encode(), total)


def render_chunk(world: World, indices: range) -> Chunk:
    """The scenes of these numbers."""
    pixels = world.resolution**2
    chunk = Chunk(
        image=np.empty((len(indices), pixels * 3), np.uint8),
        depth=np.empty((len(indices), pixels), np.float32),
        objects=np.empty((len(indices), pixels), np.uint8),
        check=np.empty(len(indices), np.uint32),
        text=[],
    )
    for place, index in enumerate(indices):
        row = render_scene(world.seed, world.split, index, world.resolution)
        chunk.image[place] = row["image"].reshape(-1)
        chunk.depth[place] = row["depth"].reshape(-1)
        chunk.objects[place] = row["objects"].reshape(-1)
        chunk.check[place] = row_check(row)
        chunk.text.append(row["text"])
    return chunk


def render_chunks(world: World, workers: int) -> Iterator[Chunk]:
    """All chunks in order. Processes are forked on Linux; elsewhere, or with one worker, none is started."""
    chunks = world.chunks()
    workers = min(workers, len(chunks))
    may_fork = sys.platform == "linux" and not multiprocessing.current_process().daemon
    if workers > 1 and may_fork:
        yield from _in_parallel(world, chunks, workers)
    else:
        for indices in chunks:
            yield render_chunk(world, indices)


def _in_parallel(world: World, chunks: list[range], workers: int) -> Iterator[Chunk]:
    context = multiprocessing.get_context("fork")
    readers: list[Connection] = []
    processes = []
    try:
        for number in range(workers):
            reader, writer = context.Pipe(duplex=False)
            readers.append(reader)
            share = chunks[number::workers]
            process = context.Process(target=_work, args=(world, share, writer, list(readers)), daemon=True)
            process.start()
            writer.close()
            processes.append(process)
        for turn in range(len(chunks)):
            yield _receive(readers[turn % workers])
    finally:
        for reader in readers:
            reader.close()
        for process in processes:
            process.terminate()
            process.join()


def _receive(reader: Connection) -> Chunk:
    try:
        chunk: Chunk = reader.recv()
    except EOFError as error:
        raise BridgeflowError(
            "a process that renders blocks ended before its work was done, perhaps for want of memory: "
            "set data.workers=1 to render in one process."
        ) from error
    return chunk


def _work(world: World, share: list[range], writer: Connection, readers: list[Connection]) -> None:
    # An interrupt goes to the whole process group: the parent alone answers it. Its own handlers for a
    # request to end, which fork copies, are not for its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # With no copy of the reading ends left here, a parent that was killed shows as a broken pipe.
    for reader in readers:
        reader.close()
    try:
        for indices in share:
            writer.send(render_chunk(world, indices))
    except BrokenPipeError:
        return
