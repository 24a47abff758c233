"""The Arrow file that keeps rendered scenes, and the rows that are read from it."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress
from bridgeflow_plugins.blocks.produce import Chunk, World, render_chunks, row_check
from bridgeflow_plugins.blocks.render import RENDERER_VERSION, render_scene

if TYPE_CHECKING:
    import pyarrow

_ABANDONED = 3600.0
"""Seconds without a write after which a temporary file belongs to nobody any more."""


def fingerprint(world: World) -> str:
    """16 hexadecimal digits that change when any row would."""
    facts = [RENDERER_VERSION, world.seed, world.split, world.count, world.resolution]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def cache_folder(folder: str | None) -> Path:
    """Where rendered scenes lie: in `folder`, else in BRIDGEFLOW_CACHE, else in ~/.cache/bridgeflow."""
    root = folder or os.environ.get("BRIDGEFLOW_CACHE") or "~/.cache/bridgeflow"
    return Path(root).expanduser() / "blocks"


class BlocksRows:
    """Rows of rendered scenes, read from a memory-mapped file.

    `rows[i]` holds `image` (H, W, 3) uint8, `depth` (H, W) float32 in metres, `text` and `objects` (H, W)
    uint8, as copies that may be written to. A row whose bytes were damaged is rendered again.
    """

    columns: tuple[str, ...] = ("image", "depth", "text", "objects")

    def __init__(self, path: Path, world: World) -> None:
        """Opens a complete file.

        Raises ValueError, OSError or pyarrow's ArrowException where `path` holds no such rows.
        """
        import pyarrow as pa

        self.path = path
        self.world = world
        self.fingerprint = fingerprint(world)
        self.description = f"{world.count:,} scenes"
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if not reader.schema.equals(_schema(world), check_metadata=True):
            raise ValueError(f"{path} holds other rows")
        chunks = world.chunks()
        if reader.num_record_batches != len(chunks):
            raise ValueError(f"{path} is not complete")
        self._parts = [
            _Part(reader.get_batch(number), len(indices), world.resolution) for number, indices in enumerate(chunks)
        ]

    def __len__(self) -> int:
        return self.world.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        index %= len(self)
        number, place = divmod(index, self.world.chunk)
        part = self._parts[number]
        row = part.row(place)
        if row_check(row) != part.check[place]:
            return render_scene(self.world.seed, self.world.split, index, self.world.resolution)
        return row

    def __reduce__(self) -> tuple[type[BlocksRows], tuple[Path, World]]:
        return BlocksRows, (self.path, self.world)


class _Part:
    """One record batch as arrays on the mapped file."""

    def __init__(self, batch: pyarrow.RecordBatch, count: int, resolution: int) -> None:
        if batch.num_rows != count:
            raise ValueError("a part of the file is not complete")
        self.image = _view(batch, "image", np.uint8).reshape(count, resolution, resolution, 3)
        self.depth = _view(batch, "depth", np.float32).reshape(count, resolution, resolution)
        self.objects = _view(batch, "objects", np.uint8).reshape(count, resolution, resolution)
        self.check = _view(batch, "check", np.uint32)[:count]
        self.text = batch.column("text")
        self.text.validate(full=True)

    def row(self, place: int) -> dict[str, Any]:
        return {
            "image": self.image[place].copy(),
            "depth": self.depth[place].copy(),
            "text": self.text[place].as_py() or "",
            "objects": self.objects[place].copy(),
        }


def rendered_rows(world: World, folder: Path) -> BlocksRows | None:
    """The rows of the world from its file in `folder`; None where there is none or it is damaged."""
    import pyarrow as pa

    with suppress(pa.ArrowException, ValueError, OSError):
        return BlocksRows(folder / _file_name(world), world)
    return None


def _file_name(world: World) -> str:
    return f"{world.split}-{world.count}-{world.resolution}px-{fingerprint(world)}.arrow"


def open_rows(world: World, folder: Path, workers: int, progress: Progress | None) -> BlocksRows:
    """The rows of the world from its file in `folder`, rendered first where there is none or it is damaged.

    Raises BridgeflowError where the folder cannot be written to.
    """
    rendered = rendered_rows(world, folder)
    if rendered is not None:
        return rendered
    path = folder / _file_name(world)
    try:
        _write(world, path, workers, progress)
        return BlocksRows(path, world)
    except OSError as error:
        raise BridgeflowError(
            f"cannot keep rendered blocks in {folder} ({error.strerror or error}): name a folder that can be "
            "written to and has room with data.cache=FOLDER or the variable BRIDGEFLOW_CACHE."
        ) from error


def _schema(world: World) -> pyarrow.Schema:
    import pyarrow as pa

    pixels = world.resolution**2
    fields = [
        pa.field("image", pa.binary(pixels * 3)),
        pa.field("depth", pa.binary(pixels * 4)),
        pa.field("objects", pa.binary(pixels)),
        pa.field("check", pa.uint32()),
        pa.field("text", pa.string()),
    ]
    return pa.schema(fields, metadata={"bridgeflow.blocks": fingerprint(world)})


def _view(batch: pyarrow.RecordBatch, column: str, kind: type) -> NDArray[Any]:
    array = batch.column(column)
    width = array.type.bit_width // 8
    view: NDArray[Any] = np.frombuffer(array.buffers()[1], np.uint8)[: len(array) * width].view(kind)
    return view


def _batch(chunk: Chunk, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    import pyarrow as pa

    arrays = [
        pa.Array.from_buffers(field.type, len(chunk.text), [None, pa.py_buffer(getattr(chunk, field.name))])
        for field in list(schema)[:-1]
    ]
    return pa.record_batch([*arrays, pa.array(chunk.text, pa.string())], schema=schema)


def _write(world: World, path: Path, workers: int, progress: Progress | None) -> None:
    """Renders into a file of another name and then renames it: no reader ever sees half a file."""
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    schema = _schema(world)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    done = 0
    try:
        with open(temporary, "xb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for chunk in render_chunks(world, workers):
                writer.write_batch(_batch(chunk, schema))
                done += len(chunk.text)
                if progress is not None:
                    progress(done, world.count, "rendering blocks")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Removes what killed processes left of this file."""
    for stray in path.parent.glob(f"{path.name}.*.tmp"):
        with suppress(OSError):
            if time.time() - stray.stat().st_mtime > _ABANDONED:
                stray.unlink()
