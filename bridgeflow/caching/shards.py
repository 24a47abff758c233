"""One shard: a safetensors file of latents, written whole or not at all, read through a memory map."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime import durable

NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "BOOL": np.bool_}
"""How numpy reads the types of a shard; it knows no bfloat16, which is taken as its 16 bits."""
MOST_HEADER = 2**20
"""Bytes of a header; one that says more is no shard's."""


def shard_path(folder: Path, split: str, number: int) -> Path:
    """The file of a shard."""
    return folder / split / f"{number:06d}.safetensors"


def write_file(path: Path, content: bytes) -> None:
    """Writes a file of a cache whole or not at all. Raises BridgeflowError where that cannot be done."""
    try:
        durable.make_folder(path.parent)
        durable.write_whole(path, content)
    except OSError as error:
        raise not_written(path, error) from error


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes the tensors of a shard as `write_file` does."""
    write_file(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def not_written(path: Path, error: OSError) -> BridgeflowError:
    """What is said where a file of a cache cannot be written."""
    return BridgeflowError(
        f"{str(path)!r} cannot be written ({error.strerror or error}): free some space or see to the folder's "
        "permissions, and start again: what is encoded so far is kept."
    )


class ShardReader:
    """The arrays of a shard as views of its memory-mapped file: nothing is read before it is looked at.

    Pickles as its path, so that a process which reads ahead maps the file itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self.arrays = self._views()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BridgeflowError(
                f"the shard {str(path)!r} is damaged or missing ({error}): see all that are with bridgeflow cache "
                "verify."
            ) from error
        # The file is read from front to back while its rows are asked for in any order.
        if hasattr(mmap, "MADV_WILLNEED"):
            with suppress(OSError):
                self._map.madvise(mmap.MADV_WILLNEED)

    def _views(self) -> dict[str, np.ndarray[Any, Any]]:
        length = int.from_bytes(self._map[:8], "little")
        if not 0 < length <= MOST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header: dict[str, Any] = json.loads(self._map[8 : 8 + length])
        views: dict[str, np.ndarray[Any, Any]] = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
            kind = np.dtype(NUMPY_TYPES[entry["dtype"]])
            if end - begin != math.prod(shape) * kind.itemsize:
                raise ValueError(f"{name} has {end - begin} bytes for {shape}")
            flat = np.frombuffer(self._map, kind, math.prod(shape), 8 + length + begin)
            views[name] = flat.reshape(shape)
        return views

    def __reduce__(self) -> tuple[type[ShardReader], tuple[Path]]:
        return ShardReader, (self.path,)


def tensor_of(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor on the array's memory; 16 bits without a sign are a bfloat16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
