"""Files that are opened, and files that are refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.crossflow.state_dict import read_state_dict

Save = Callable[..., Path]
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def same(read: dict[str, torch.Tensor]) -> bool:
    return read.keys() == TENSORS.keys() and all(torch.equal(read[key], TENSORS[key]) for key in TENSORS)


def test_a_state_dict_is_mapped_into_memory_and_not_read(saved: Save) -> None:
    file = saved({"a": torch.zeros(40_000_000)})
    before = resident()
    read = read_state_dict(file)
    assert resident() - before < 40e6
    assert read["a"].shape == (40_000_000,)


def resident() -> int:
    """Bytes of this process that lie in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_the_old_format_of_torch_is_read(saved: Save) -> None:
    assert same(read_state_dict(saved(TENSORS, _use_new_zipfile_serialization=False)))


@pytest.mark.parametrize("key", ["state_dict", "model", "nnet_ema"])
def test_one_wrapper_is_taken_off(saved: Save, key: str) -> None:
    assert same(read_state_dict(saved({key: TENSORS, "epoch": 3, "optimizer": {"state": {}}})))


def test_prefixes_before_every_key_are_taken_off(saved: Save) -> None:
    assert same(read_state_dict(saved({f"module._orig_mod.{key}": own for key, own in TENSORS.items()})))
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert read_state_dict(saved(mixed)).keys() == mixed.keys()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"epoch": 3, "step": 7, "rate": 0.1, "more": 0}, "holds no state dict.*'epoch', 'step', 'rate'; give"),
        ({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, "'state', 'param_groups'"),
        ({}, "its first keys are none"),
        ({"a": torch.ones(1), "epoch": 3}, "holds no state dict"),
        (torch.ones(3), "holds a Tensor, where a state dict"),
        ([torch.ones(3)], "holds a list"),
        ({"model": TENSORS, "ema": TENSORS}, "several state dicts .*'model', 'ema'"),
    ],
)
def test_what_is_no_state_dict_is_refused(saved: Save, value: object, words: str) -> None:
    with pytest.raises(BridgeflowError, match=words):
        read_state_dict(saved(value))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_not_trusted(saved: Save, tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "harm"
    file = saved({"a": torch.ones(1), "b": Harm(mark)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BridgeflowError, match=r"more than tensors .* not trusted"):
        read_state_dict(file)
    assert not mark.exists()
    module = saved(torch.nn.Linear(2, 2), _use_new_zipfile_serialization=zipped)
    with pytest.raises(BridgeflowError, match="more than tensors"):
        read_state_dict(module)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_file_is_refused(saved: Save, share: float) -> None:
    file = saved(TENSORS)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BridgeflowError, match=r"'.*network\.pth' is cut short: download"):
        read_state_dict(file)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_file_of_the_old_format_is_refused(saved: Save, share: float) -> None:
    file = saved(TENSORS, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BridgeflowError, match="is damaged or no torch file"):
        read_state_dict(file)


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    contents = [file.read_bytes(), b"<html>404 not found</html>", pickle.dumps({"a": 1}), bytes(range(256)) * 9]
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(BridgeflowError, match="is damaged or no torch file"):
            read_state_dict(file)
    file.write_bytes(b"")
    with pytest.raises(BridgeflowError, match="is empty"):
        read_state_dict(file)
