"""The accelerator of a run: its device, its dtype, its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin

from bridgeflow.runtime import launch
from bridgeflow.runtime.precision import choose_precision
from bridgeflow.training import sharding
from bridgeflow.training.allocator import keep_freed_memory

_DEVICE = "ACCELERATE_TORCH_DEVICE"


def make_accelerator(settings: Any, device: str | None) -> Accelerator:
    """The accelerator of a run, in the precision that the settings and the machine call for.

    What the recipe says is said by it alone: accelerate's variables on precision, accumulation and compilation are
    overruled. Raises BridgeflowError where variables of a launcher are set and its processes cannot meet.
    """
    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    if on_cpu:
        keep_freed_memory()
    sharding.check_configuration()
    precision = choose_precision(settings.precision, torch.device("cpu" if on_cpu else "cuda"))
    # Accelerate keeps its state for the process: a second run may want another precision or device.
    AcceleratorState._reset_state(reset_partial_state="LOCAL_RANK" not in os.environ)
    named = None if device in (None, "cpu", "cuda") or "LOCAL_RANK" in os.environ else device
    with _named_device(named), launch.meeting(on_cpu):
        return Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            cpu=on_cpu,
            # As plugins, for accelerate's variables outweigh the plain arguments.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_plugin=TorchDynamoPlugin(
                backend="no", mode="default", fullgraph=False, dynamic=False, use_regional_compilation=False
            ),
        )


@contextmanager
def _named_device(name: str | None) -> Iterator[None]:
    """Names the device of the accelerators that are made inside, to no other."""
    before = os.environ.get(_DEVICE)
    if name is not None:
        os.environ[_DEVICE] = name
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_DEVICE, None)
        else:
            os.environ[_DEVICE] = before
