"""Which number type a training step runs in."""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F


def choose_precision(wanted: str, device: torch.device) -> str:
    """'fp32' or 'bf16': what is wanted, or for 'auto' whatever runs faster on the device."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device.type != "cpu":
        return "fp32"
    return "bf16" if _seconds(torch.bfloat16) < 0.8 * _seconds(torch.float32) else "fp32"


def _seconds(dtype: torch.dtype) -> float:
    matrix = torch.randn(768, 768, dtype=dtype)
    image, kernel = torch.randn(4, 64, 32, 32, dtype=dtype), torch.randn(64, 64, 3, 3, dtype=dtype)

    def work() -> None:
        matrix @ matrix
        F.conv2d(image, kernel, padding=1)

    work()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
