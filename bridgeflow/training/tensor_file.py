"""Safetensors files, written from tensors in memory or from tensors that are read one by one."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def write_state(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors of any device. Raises OSError or SafetensorError where the file cannot be written."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def reason_of(error: Exception) -> str:
    """The system's word for why a file cannot be written; safetensors tells the number of the error only."""
    number = re.search(r"os error (\d+)", str(error))
    return os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor somewhere else, read when it is needed; its shape and type are known before."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    """Gives the tensor, on the CPU, of that shape and type."""

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def write_tensors(
    tensors: Mapping[str, StoredTensor], path: Path, on_bytes: Callable[[int, int], None] | None = None
) -> None:
    """Writes a safetensors file tensor by tensor, so that one of them at a time is in memory.

    The format: the header's length as 8 bytes (little-endian), the header as JSON (type, shape and place of each
    tensor), then the data without gaps; wide types first, so that each lies on a multiple of its own width.
    `on_bytes(done, total)` is called after every tensor.
    """
    ordered = sorted(tensors.items(), key=lambda entry: (-entry[1].dtype.itemsize, entry[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for name, tensor in ordered:
        place = [total, total + tensor.size]
        header[name] = {
            "dtype": SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": place,
        }
        total = place[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in ordered:
            value = tensor.read().detach()
            if value.shape != tensor.shape or value.dtype != tensor.dtype:
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, not {tensor.dtype} {tensor.shape}")
            stream.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            done += tensor.size
            if on_bytes is not None:
                on_bytes(done, total)
