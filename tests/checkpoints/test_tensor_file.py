"""Tensors of a checkpoint: tied weights, and why a file could not be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bridgeflow.checkpoints.tensor_file import StoredTensor, errno_of, reason_of, write_state, write_tensors
from bridgeflow.runtime.durable import OWN


def test_tied_weights_are_written_under_both_names(tmp_path: Path) -> None:
    layer = nn.Linear(3, 3)
    tied = {
        "embed.weight": layer.weight,
        "head.weight": layer.weight,
        "head.rows": layer.weight[:2],
        "bias": layer.bias,
    }
    write_state(tied, tmp_path / "file.safetensors")
    stored = load_file(tmp_path / "file.safetensors")
    assert {name: torch.equal(stored[name], tied[name]) for name in tied} == dict.fromkeys(tied, True)


def test_the_number_of_an_error_is_known_whoever_raises_it() -> None:
    assert errno_of(OSError(errno.ENOSPC, "x")) == errno.ENOSPC
    assert errno_of(ValueError("I/O error: Permission denied (os error 13)")) == errno.EACCES
    assert reason_of(ValueError("I/O error: Permission denied (os error 13)")) == "Permission denied"
    assert errno_of(ValueError("no number")) is None
    assert reason_of(ValueError("no number")) == "no number"


def test_temporary_names_of_long_trainings_are_known() -> None:
    assert OWN.fullmatch(".000500.part-17")
    assert OWN.fullmatch(".1000000.gone-17")
    assert not OWN.fullmatch(".500.part-17")


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float64])
def test_buffers_of_any_dtype_are_written_one_by_one(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([[1, 0], [0, 1], [1, 1]]).to(dtype)
    write_tensors({"mask": StoredTensor((3, 2), dtype, lambda: tensor)}, tmp_path / "own.safetensors")
    assert torch.equal(load_file(tmp_path / "own.safetensors")["mask"], tensor)
