"""Which dtype products and convolutions run in, and how much quicker or slower bfloat16 is on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import torch
from pydantic import BaseModel
from torch.nn import functional as F

Precision = Literal["auto", "fp32", "bf16"]
"""What a setting may ask for; `auto` is resolved by `choose_precision`."""

WORTH_IT = 0.8
"""Share of float32's time that bfloat16 has to stay below to be chosen: casts and sums take some of what it gains."""
HOPELESS = 4.0
"""From this share on the small products decide: larger ones would take long where bfloat16 is emulated."""
WORTH_TELLING = 1.2
"""From this share on who asks for bfloat16 gets a warning."""
MEASURING_SECONDS = 0.15
"""About the most that the larger products take."""


def choose_precision(wanted: str, device: torch.device | str) -> str:
    """'fp32' or 'bf16': what is wanted, or for 'auto' whatever runs faster on the device."""
    if wanted != "auto":
        return wanted
    return "bf16" if relative_time(torch.device(device).type) < WORTH_IT else "fp32"


@cache
def relative_time(device_type: str) -> float:
    """Seconds that bfloat16 takes for one of float32, measured once per process on a CPU ('cpu'); 0 for a GPU
    with bfloat16 units, and infinite for every other device, where float32 is what is sure to work."""
    if device_type == "cuda":
        return 0.0 if torch.cuda.is_bf16_supported(including_emulation=False) else float("inf")
    if device_type != "cpu":
        return float("inf")
    threads = torch.get_num_threads()
    try:
        # Threads that wait for one another measure what else the machine does.
        torch.set_num_threads(1)
        small = _compare(side=120, rounds=4)
        return small if small > HOPELESS else _compare(side=640, rounds=8)
    finally:
        torch.set_num_threads(threads)


def asking_for_bf16(settings: BaseModel, path: str) -> list[str]:
    """What would leave the choice to the machine, 'target.codec.precision=auto' and the like, for every field
    `precision` at or below `settings`, of the key `path`, that is 'bf16'; fp32 where a setting knows no `auto`."""
    found: list[str] = []
    for name, field in type(settings).model_fields.items():
        value, place = getattr(settings, name), f"{path}.{name}" if path else name
        if isinstance(value, BaseModel):
            found += asking_for_bf16(value, place)
        elif name == "precision" and value == "bf16":
            found.append(f"{place}={'auto' if 'auto' in get_args(field.annotation) else 'fp32'}")
    return found


def slower_than_float32(device: torch.device | str, keys: list[str]) -> str | None:
    """A sentence for who asked for bfloat16 by `keys`, 'training.precision=auto' and the like, which set what would be
    quicker; None where none did, or where it is not slower on this device."""
    device_type = torch.device(device).type
    if not keys:
        return None
    ratio = relative_time(device_type)
    if ratio < WORTH_TELLING:
        return None
    if ratio == float("inf"):
        return f"this device has no units for bf16, which may be slower than fp32 here: set {' and '.join(keys)}."
    times = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
    return f"bf16 is {times} times slower than fp32 on this processor: set {' and '.join(keys)}."


def warn_of_slow_bf16(device: torch.device | str, warn: Callable[[str], None], **settings: BaseModel) -> None:
    """Calls `warn` with that sentence where settings, each under the key that it has in a recipe, ask for bfloat16."""
    sentence = slower_than_float32(
        device, [key for name, own in settings.items() for key in asking_for_bf16(own, name)]
    )
    if sentence is not None:
        warn(sentence)


def _compare(side: int, rounds: int) -> float:
    """The quickest of some products in bfloat16 over the quickest in float32, taken in turn, so that whatever else the
    machine does bears on both."""
    best = {dtype: float("inf") for dtype in (torch.float32, torch.bfloat16)}
    inputs = {dtype: _inputs(side, dtype) for dtype in best}
    for dtype in best:
        _seconds(*inputs[dtype])
    began = time.perf_counter()
    for _ in range(rounds):
        for dtype in best:
            best[dtype] = min(best[dtype], _seconds(*inputs[dtype]))
        if time.perf_counter() - began > MEASURING_SECONDS:
            break
    return best[torch.bfloat16] / best[torch.float32]


def _inputs(side: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix, pictures and a kernel; as many multiplications in the product as in the convolution, about."""
    pixels = side // 20
    return (
        torch.ones(side, side, dtype=dtype),
        torch.ones(4, 64, pixels, pixels, dtype=dtype),
        torch.ones(64, 64, 3, 3, dtype=dtype),
    )


def _seconds(matrix: torch.Tensor, image: torch.Tensor, kernel: torch.Tensor) -> float:
    start = time.perf_counter()
    matrix @ matrix
    F.conv2d(image, kernel, padding=1)
    return time.perf_counter() - start
