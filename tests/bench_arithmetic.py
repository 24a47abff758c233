"""Operations, weights and bytes of the paper's recipes, counted on the meta device: `python -m tests.bench_arithmetic`.

The assumptions are the constants below; docs/performance.md states them beside the results.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from bridgeflow.assembly import assemble
from bridgeflow.config import recipe as recipes
from bridgeflow.modality import Latent, LatentSpec
from tests.bench_measure import convolution_backward

RECIPES = ("t2i/crossflow-256", "t2i/crossflow-512", "t2i/blocks", "depth/blocks")
PEAK, SHARE = 989e12, 0.4
"""Dense bfloat16 operations a second of an H100 SXM, and the share of them that a step reaches."""
INSIDE, ACROSS = 450e9, 50e9
"""Bytes a second that a GPU sends and receives: NVLink within a machine, one 400 Gbit/s adapter a GPU between them."""
BATCH = 1024
"""Pairs in an optimiser step."""
HALF = 2
"""Bytes of a cached number in float16."""


def operations(name: str, rows: int = 2) -> tuple[float, int, LatentSpec, LatentSpec]:
    """Operations of forward and backward for one pair, trainable parameters, and the shapes of both latents."""
    assembly = assemble(recipes.load(name))
    bridge = assembly.sketch_bridge().train()
    source, target = assembly.source.latent, assembly.target.latent
    latents = [Latent(torch.empty(rows, *spec.shape, device="meta")) for spec in (source, target)]
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward}
    ) as counter:
        bridge(*latents).total.backward()
    trained = sum(p.numel() for p in bridge.parameters() if p.requires_grad)
    return counter.get_total_flops() / rows, trained, source, target


def all_reduce(parameters: int, processes: int, bytes_a_second: float) -> float:
    """Seconds of a ring all-reduce of float32 gradients: each process sends and receives 2 (n - 1) / n of them."""
    return 2 * (processes - 1) / processes * 4 * parameters / bytes_a_second


def lines(name: str) -> list[str]:
    """What the table of docs/performance.md says of a recipe."""
    each, parameters, source, target = operations(name)
    told = [f"{name}: {parameters / 1e6:,.1f}M trained, {each / 1e9:,.1f} GFLOP a pair forward and backward"]
    for gpus, bandwidth in ((8, INSIDE), (64, ACROSS)):
        compute = BATCH * each / (gpus * PEAK * SHARE)
        exchange = all_reduce(parameters, gpus, bandwidth)
        told.append(
            f"  {gpus} GPUs: {compute:.3f} s of products a step of {BATCH}, {exchange:.3f} s of all-reduce "
            f"({exchange / compute:.1%}), {BATCH / (compute + exchange):,.0f} pairs/s if nothing overlaps, "
            f"{BATCH / compute:,.0f} if all does"
        )
    numbers = source.size + 2 * target.size
    told.append(
        f"  cache: {numbers * HALF / 1e3:.0f} kB a pair in float16 (target mean and std), "
        f"{numbers * HALF / 1e3:,.0f} GB a million pairs"
    )
    return told


if __name__ == "__main__":
    for recipe in RECIPES:
        print("\n".join(lines(recipe)))
