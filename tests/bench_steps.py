"""Training steps of the networks: their share of the peak, their types, attention, memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from bridgeflow.modality import LatentSpec
from bridgeflow.nn.attention import attend
from bridgeflow.nn.dimr import DiMRSettings
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.recompute import recompute_blocks
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.nn.velocity import NetworkSettings
from bridgeflow.training.allocator import keep_freed_memory
from tests.bench_measure import (
    PEAK_SIZE,
    Figure,
    Work,
    dtypes,
    in_turns,
    of_values,
    product,
    ratio,
    step_flops,
    training_step,
    without_kernels,
)


@dataclass(frozen=True)
class Case:
    """A network on latents of a shape, with its bar in bf16, the published implementation's seconds in fp32, and the
    bars of (fp32, bf16) beside those."""

    name: str
    settings: NetworkSettings
    spec: LatentSpec
    batch: int
    bar: str = ""
    published: float | None = None
    beside: tuple[str, str] = ("", "")


GRID = LatentSpec((4, 32, 32), "grid")
STAGES = [
    {"kind": "transformer", "width": 256, "hidden": 512, "heads": 4, "blocks": 7, "patch": 2},
    {"kind": "convnext", "width": 128, "hidden": 256, "blocks": 5, "patch": 1},
]
CASES = [
    Case(
        "DiT 256x6, 4x32x32, batch 8",
        DiTSettings(patch=2, indicator="embedding"),
        GRID,
        8,
        ">= 60",
        0.94,
        ("<= 0.95", "<= 0.62"),
    ),
    Case(
        "DiMR 256x7 + 128x5, 4x32x32, batch 8",
        DiMRSettings.model_validate({"stages": STAGES}),
        GRID,
        8,
        ">= 40",
        1.81,
        ("<= 0.8", "<= 0.5"),
    ),
    Case(
        "U-Net of depth/blocks, 3x64x64, batch 16",
        UNetSettings(channels=(32, 64, 128), patch=2, attention=(2,)),
        LatentSpec((3, 64, 64), "grid"),
        16,
    ),
]
"""`published`: one core that multiplies 2048 x 2048 matrices at 96 GFLOP/s in fp32."""

PUBLISHED_PEAK = 96e9


def shares_of_peak(repeats: int = 7) -> list[Figure]:
    """Share of the matrix-product peak of each network on one thread, in fp32 and bf16, each beside its own peak; and
    its time against the published implementation's, by the fp32 peak."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figures: list[Figure] = []
    for case in CASES:
        flops = step_flops(case.settings, case.spec, case.batch)
        network = case.settings.build(case.spec)
        works: dict[str, Work] = {}
        kinds = dtypes()
        for kind, dtype in kinds.items():
            works[kind] = training_step(network, case.spec.shape, case.batch, kind == "bf16")
            works[f"{kind} product"] = product(dtype)
        works["plain"] = without_kernels(works["fp32"])
        times = in_turns(works, repeats)
        peak = 2 * PEAK_SIZE**3
        for kind in kinds:
            # The product beside a step may have been disturbed: the best of the run is the machine's.
            best = peak / min(times[f"{kind} product"])
            shares = [100 * flops / own / best for own in times[kind]]
            what = f"training step of {case.name}, {kind}: of the peak ({best / 1e9:.0f} GFLOP/s)"
            figures.append(
                Figure(
                    what,
                    statistics.median(shares),
                    (min(shares), max(shares)),
                    "%",
                    case.bar if kind == "bf16" else "",
                    {"step": statistics.median(times[kind]), "best step": min(times[kind])},
                )
            )
        figures.append(ratio(f"training step of {case.name}, fp32, without CPU kernels / with", "plain", "fp32", times))
        if "bf16" in kinds:
            figures.append(ratio(f"training step of {case.name}, fp32 / bf16", "fp32", "bf16", times))
        if case.published is not None:
            core = peak / min(times["fp32 product"])
            for kind, bar in zip(kinds, case.beside, strict=False):
                scaled = [own * core / PUBLISHED_PEAK / case.published for own in times[kind]]
                what = f"the same, {kind} / the published implementation's fp32 step, by the fp32 peak"
                figures.append(of_values(what, scaled, "x", bar))
    torch.set_num_threads(threads)
    return figures


def attention() -> list[Figure]:
    """Forward and backward of attention: the fused kernel against two products and a softmax."""
    figures = []
    for kind, dtype in dtypes().items():
        q, k, v = (torch.randn(8, 4, 256, 64, dtype=dtype, requires_grad=True) for _ in range(3))

        def fused() -> None:
            F.scaled_dot_product_attention(q, k, v).float().square().mean().backward()  # noqa: B023

        def plain() -> None:
            attend(q, k, v).float().square().mean().backward()  # noqa: B023

        times = in_turns({"fused": fused, "plain": plain})
        figures.append(ratio(f"attention forward and backward in {kind}, fused / plain", "fused", "plain", times))
    return figures


# -- memory ----------------------------------------------------------------------------------------------

DEEP = {
    "DiT 384x12, 4x32x32, batch 16": DiTSettings(patch=2, width=384, depth=12, heads=6),
    "DiMR 256x15 + 128x15, 4x32x32, batch 16": DiMRSettings.model_validate(
        {"stages": [{**STAGES[0], "blocks": 15}, {**STAGES[1], "blocks": 15}]}
    ),
}


def memory() -> list[Figure]:
    """Memory that a step takes on top of weights and optimiser, with and without gradient checkpointing, each in a
    process of its own; and what the second forward costs."""
    figures = []
    for name in DEEP:
        found = {kept: _child(name, kept) for kept in (False, True)}
        plain, less = (found[kept]["bytes"] for kept in (False, True))
        what = f"peak memory of a step of {name}, gradient checkpointing / none"
        megabytes = f" ({less / 2**20:.0f} / {plain / 2**20:.0f} MB)"
        figures.append(Figure(what + megabytes, less / plain, (less / plain, less / plain)))
        times = {str(kept): own["seconds"] for kept, own in found.items()}
        figures.append(ratio(f"training step of {name}, gradient checkpointing / none", "True", "False", times))
    return figures


def _child(name: str, recompute: bool) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench_steps", name, str(int(recompute))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told: dict[str, object] = json.loads(done.stdout)
    return told


def _status(name: str) -> int:
    """Bytes of this process's memory now (VmRSS) or at its peak (VmHWM). `getrusage` would tell of the process that
    started this one, too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _measure_memory(name: str, recompute: bool) -> None:
    keep_freed_memory()
    network = DEEP[name].build(GRID)
    if recompute:
        recompute_blocks(network)
    # A step of one row makes gradients and the optimiser's state, and loads what torch loads late.
    bf16 = "bf16" in dtypes()
    training_step(network, GRID.shape, 1, bf16)()
    before = _status("VmRSS")
    times = in_turns({"step": training_step(network, GRID.shape, 16, bf16)}, 3)
    grown = _status("VmHWM") - before
    print(json.dumps({"bytes": grown, "seconds": times["step"]}))


if __name__ == "__main__":
    _measure_memory(sys.argv[1], sys.argv[2] == "1")
