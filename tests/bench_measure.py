"""What `make bench` measures with: figures with their spread, taken in turns so that a busy machine disturbs all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bridgeflow.flow.losses import staged_flow_loss
from bridgeflow.modality import LatentSpec
from bridgeflow.nn import ops
from bridgeflow.nn.velocity import NetworkSettings, VelocityNet
from bridgeflow.runtime.precision import relative_time

Work = Callable[[], object]
EMULATED = 3.0
"""Share of float32's time from which on bfloat16 is emulated."""
PEAK_SIZE = 2048
"""Rows and columns of the matrices whose product is the peak."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    spread: tuple[float, float]
    unit: str = "x"
    """'x' for a ratio, '%' for a share, or what is counted."""
    bar: str = ""
    """What it should be, such as '>= 60'."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Medians of what was timed for it."""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if not self.bar:
            return None
        sign, _, number = self.bar.partition(" ")
        return self.value >= float(number) if sign == ">=" else self.value <= float(number)

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "met": self.met}

    def line(self) -> str:
        """For people."""
        low, high = self.spread
        bar = "" if self.met is None else f"  bar {self.bar}{'' if self.met else '  MISSED'}"
        times = ", ".join(f"{name} {own:.4g} s" for name, own in self.seconds.items())
        return f"  {self.what:<88} {self.value:>8.4g} {self.unit:<7} ({low:.4g} to {high:.4g}){bar}  {times}".rstrip()


def in_turns(works: Mapping[str, Work], repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of each piece of work, by name: all once as a warm-up, then one after the other, `repeats` times."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(what: str, slow: str, fast: str, times: Mapping[str, Sequence[float]], bar: str = "") -> Figure:
    """Time of `slow` over that of `fast`: of the medians, and the extremes of the pairs measured side by side."""
    pairs = sorted(a / b for a, b in zip(times[slow], times[fast], strict=True))
    medians = {name: statistics.median(times[name]) for name in (slow, fast)}
    return Figure(what, medians[slow] / medians[fast], (pairs[0], pairs[-1]), bar=bar, seconds=medians)


def of_values(what: str, values: Sequence[float], unit: str, bar: str = "") -> Figure:
    """Median and extremes of values."""
    return Figure(what, statistics.median(values), (min(values), max(values)), unit, bar)


def dtypes() -> dict[str, torch.dtype]:
    """The dtypes that steps are measured in: bf16 is left out where the processor emulates it, as steps of it then take
    minutes and say nothing of the networks."""
    emulated = relative_time("cpu") > EMULATED
    return {"fp32": torch.float32} if emulated else {"fp32": torch.float32, "bf16": torch.bfloat16}


def without_kernels(work: Work) -> Work:
    """The same with the plain forms of the operations, as `BRIDGEFLOW_CPU_KERNELS=0` has it."""

    def run() -> None:
        ops.CPU_KERNELS = False
        try:
            work()
        finally:
            ops.CPU_KERNELS = True

    return run


def product(dtype: torch.dtype) -> Work:
    """The matrix product that the peak is measured by."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def training_step(network: VelocityNet, shape: Sequence[int], batch: int, bf16: bool) -> Work:
    """Forward, backward and optimiser of a velocity network on made-up latents (batch, *shape)."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    inputs = _inputs(batch, shape, "cpu")

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = _loss(network, *inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_flops(settings: NetworkSettings, spec: LatentSpec, batch: int) -> int:
    """Floating point operations of the matrix products and convolutions of a forward and backward pass, counted on the
    meta device."""
    with torch.device("meta"):
        network = settings.build(spec)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward})
    with counter:
        _loss(network, *_inputs(batch, spec.shape, "meta")).backward()
    return int(counter.get_total_flops())


def convolution_backward(gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any) -> int:
    """Once the forward pass for each gradient asked for. Torch's own count takes a depthwise convolution for a full
    one."""
    mask = next(own for own in rest if isinstance(own, list | tuple) and len(own) == 3 and isinstance(own[0], bool))
    forward = 2 * gradient[0] * math.prod(gradient[2:]) * math.prod(weight)
    return forward * sum(mask[:2])


def _inputs(batch: int, shape: Sequence[int], device: str) -> tuple[Tensor, Tensor, Tensor]:
    null = torch.zeros(batch, dtype=torch.bool, device=device)
    return torch.randn(batch, *shape, device=device), torch.rand(batch, device=device), null


def _loss(network: VelocityNet, z: Tensor, t: Tensor, null: Tensor) -> Tensor:
    return staged_flow_loss(network.velocities(z, t, null), z, network.stage_weights).mean()
