"""How the cost of a step grows with batch, tokens and resolution, and that of the data with their number."""

from __future__ import annotations

import itertools
import tempfile
import time

import torch

from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dimr import DiMRSettings
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.nn.velocity import NetworkSettings
from tests.bench_measure import Figure, dtypes, in_turns, ratio, step_flops, training_step

Point = tuple[str, NetworkSettings, LatentSpec, int]


def growth() -> list[Figure]:
    """Each point against the one before it, with what the count of operations says."""
    dit, dimr = DiTSettings(patch=2), DiMRSettings()
    unet = UNetSettings(channels=(32, 64, 128), patch=2)
    grid = {size: LatentSpec((4, size, size), "grid") for size in (16, 32, 64)}
    series: dict[str, list[Point]] = {
        "DiT 256x6, 256 tokens, by batch": [(str(b), dit, grid[32], b) for b in (4, 8, 16)],
        "DiT 256x6, batch 4, by tokens": [(str(n * n // 4), dit, grid[n], 4) for n in (16, 32, 64)],
        "DiMR 256x7 + 128x5, batch 4, by side of the latent": [(str(n), dimr, grid[n], 4) for n in (16, 32, 64)],
        "U-Net of depth/blocks, batch 4, by side of the picture": [
            (str(n), unet, LatentSpec((3, n, n), "grid"), 4) for n in (32, 64, 128)
        ],
    }
    figures: list[Figure] = []
    kind = list(dtypes())[-1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, points in series.items():
        works, flops = {}, {}
        for label, settings, spec, batch in points:
            works[label] = training_step(settings.build(spec), spec.shape, batch, kind == "bf16")
            flops[label] = step_flops(settings, spec, batch)
        times = in_turns(works, 3)
        for small, large in itertools.pairwise(works):
            expected = flops[large] / flops[small]
            what = f"{name}: {kind} step at {large} / at {small} (operations {expected:.2f}x)"
            figures.append(ratio(what, large, small, times))
    torch.set_num_threads(threads)
    return [*figures, *_data()]


def _data() -> list[Figure]:
    """Blocks: rendered once, then opened again, and a batch of 32 rows read, by the number of scenes."""
    from bridgeflow_plugins.blocks import Blocks

    rendered: dict[str, list[float]] = {}
    read: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for size in (2048, 4096, 8192):
            start = time.perf_counter()
            rows = Blocks(size=size, cache=cache).open("train")
            rendered[str(size)] = [time.perf_counter() - start]
            order = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:32].tolist()

            def batch() -> None:
                for index in order:  # noqa: B023
                    rows[index]  # type: ignore[index]  # noqa: B023

            read[str(size)] = in_turns({"read": batch}, 20)["read"]
    figures = []
    for small, large in itertools.pairwise(rendered):
        figures.append(ratio(f"blocks: rendering {large} scenes / {small}", large, small, rendered))
        figures.append(ratio(f"blocks: reading 32 rows of {large} / of {small}", large, small, read))
    return figures
