"""Opening a published file: tensors by key, memory-mapped where the format allows, and nothing executed."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.crossflow.layout import first_keys

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "nnet_ema", "ema", "nnet", "net", "params")
"""Keys under which training scripts keep the state dict beside other things."""

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every key."""

FORBIDDEN = re.compile(r"\bglobal\b|unrecognized function|can only (create|build)", re.IGNORECASE)
"""What torch's restricted unpickler says of a file that names anything but tensors; damage reads otherwise."""

ZIP = b"PK\x03\x04"
AGAIN = "download it again, or give another file"


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file by key, on the CPU; a wrapper around the state dict and a prefix before every key
    are taken off.

    Raises BridgeflowError where the file is damaged, is no torch file, would execute code, or holds no state dict.
    """
    return _without_prefix(_state_dict(_load(file), repr(str(file))))


def _load(file: Path) -> Any:
    name = repr(str(file))
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise BridgeflowError(f"{name} cannot be read ({error.strerror or error}): give a file that can.") from error
    if not start:
        raise BridgeflowError(f"{name} is empty, where a torch file was expected: {AGAIN}.")
    zipped = start.startswith(ZIP)
    if zipped and not zipfile.is_zipfile(file):
        raise BridgeflowError(f"{name} is cut short: {AGAIN}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if FORBIDDEN.search(str(error)):
            raise BridgeflowError(
                f"{name} holds more than tensors (reading it would run code of its author's choice), so it is not "
                "trusted: give a file that holds the state dict alone."
            ) from error
        raise BridgeflowError(f"{name} is damaged or no torch file: {AGAIN}.") from error
    except MemoryError as error:
        raise BridgeflowError(f"{name} does not fit into memory: save it again with a newer torch.") from error
    # What a torn or foreign file makes of torch's reader is of many kinds; all mean: not to be read.
    except Exception as error:
        raise BridgeflowError(f"{name} is damaged or no torch file: {AGAIN}.") from error


def _tensors_by_name(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(own, Tensor) for key, own in value.items())
    )


def _state_dict(value: Any, name: str) -> dict[str, Tensor]:
    if _tensors_by_name(value):
        return dict(value)
    if not isinstance(value, Mapping):
        raise BridgeflowError(
            f"{name} holds a {type(value).__name__}, where a state dict (tensors by name) was expected: "
            "give a checkpoint as it was published."
        )
    inside = [key for key in WRAPPERS if _tensors_by_name(value.get(key))]
    if len(inside) == 1:
        return dict(value[inside[0]])
    if len(inside) > 1:
        raise BridgeflowError(
            f"{name} holds several state dicts ({', '.join(map(repr, inside))}): save the one that is meant alone."
        )
    raise BridgeflowError(
        f"{name} holds no state dict (tensors by name): its first keys are {first_keys(value)}; "
        "give a checkpoint as it was published."
    )


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in tensors):
                tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
                stripped = True
    return tensors
