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
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bridgeflow.errors import BridgeflowError


class NotFinite(BridgeflowError):
    """A tensor with NaN or infinite numbers, which is not written. `tensor` says which, and of which file."""

    def __init__(self, name: str, path: Path) -> None:
        self.tensor = f"tensor {name!r} of {path.name}"
        super().__init__(
            f"the {self.tensor} holds numbers that are not finite, so nothing is written: take the weights of another "
            "checkpoint or file."
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinite numbers; waits for its device."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # A NaN anywhere is a NaN in both extremes, without a tensor of truth values as long as this one.
    return all(bool(extreme.isfinite()) for extreme in tensor.detach().aminmax())


def first_not_finite(path: Path) -> str | None:
    """The name of the first tensor in a safetensors file that is not finite; one at a time is in memory.

    Raises OSError or SafetensorError where the file cannot be read.
    """
    with safe_open(path, "pt") as stored:
        return next((name for name in stored.keys() if not is_finite(stored.get_tensor(name))), None)  # noqa: SIM118


def write_state(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors of any device. Raises NotFinite; OSError or SafetensorError where the file cannot be written."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise NotFinite(name, path)
    save_file(_apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}), path)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, with a copy of each tensor that shares memory with one before it, as tied weights do: safetensors
    refuses them."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if tensor.numel() and place in seen:
            tensors[name] = tensor.clone()
        seen.add(place)
    return tensors


def errno_of(error: Exception) -> int | None:
    """The system's number of an error; of safetensors' errors it stands in the text alone."""
    number = re.search(r"os error (\d+)", str(error))
    return int(number[1]) if number else getattr(error, "errno", None)


def reason_of(error: Exception) -> str:
    """The system's word for why a file cannot be written."""
    number = errno_of(error)
    return str(error) if number is None else os.strerror(number)


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


SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls the dtypes that weights and buffers have."""


def write_tensors(
    tensors: Mapping[str, StoredTensor], path: Path, on_bytes: Callable[[int, int], None] | None = None
) -> None:
    """Writes a safetensors file tensor by tensor, so that one of them at a time is in memory.

    The format: the header's length as 8 bytes (little-endian), the header as JSON (type, shape and place of each
    tensor), then the data without gaps; wide types first, so that each lies on a multiple of its own width.
    `on_bytes(done, total)` is called after every tensor. Raises NotFinite, with the file cut short.
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
            if not is_finite(value):
                raise NotFinite(name, path)
            stream.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            done += tensor.size
            if on_bytes is not None:
                on_bytes(done, total)
