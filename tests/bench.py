"""Speed, as ratios of one run: `make bench`. Prints a table; `--json` prints the figures for programs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from bridgeflow.flow import IndicatorGuidance, NoGuidance
from bridgeflow.flow.losses import staged_flow_loss
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.attention import attend
from bridgeflow.nn.dimr import DiMRSettings
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.nn.velocity import VelocityNet
from bridgeflow.training.allocator import keep_freed_memory


def seconds(work: Callable[[], object], repeats: int = 5) -> list[float]:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def ratio(name: str, slow: list[float], fast: list[float]) -> dict[str, object]:
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return {
        "what": name,
        "ratio": round(statistics.median(slow) / statistics.median(fast), 2),
        "spread": [round(ratios[0], 2), round(ratios[-1], 2)],
        "seconds": [round(statistics.median(slow), 4), round(statistics.median(fast), 4)],
    }


def peak(dtype: torch.dtype) -> list[float]:
    """Seconds of a 2048 x 2048 matrix product."""
    a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    return seconds(lambda: a @ b)


def training_step(network: VelocityNet, shape: tuple[int, ...], batch: int, bf16: bool) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    z, t, null = torch.randn(batch, *shape), torch.rand(batch), torch.zeros(batch, dtype=torch.bool)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = staged_flow_loss(network.velocities(z, t, null), z, network.stage_weights).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


PUBLISHED = {
    "DiT 256x6, patch 2 (7.4M), 4x32x32, batch 8": 0.94,
    "DiMR 256x7 + 128x5 (6.9M), 4x32x32, batch 8": 1.81,
}
"""Seconds of a training step of the published implementation in fp32, on one core that multiplies 2048 x 2048 matrices
at 96 GFLOP/s in fp32 and 212 in bf16."""

PUBLISHED_PEAK = {torch.float32: 96.0, torch.bfloat16: 212.0}


def against_published() -> list[dict[str, object]]:
    """Training steps on one thread, each held against the published one scaled by the peak measured beside it."""
    latent = LatentSpec((4, 32, 32), "grid")
    stages = [
        {"kind": "transformer", "width": 256, "hidden": 512, "heads": 4, "blocks": 7, "patch": 2},
        {"kind": "convnext", "width": 128, "hidden": 256, "blocks": 5, "patch": 1},
    ]
    settings = (DiTSettings(patch=2, indicator="embedding"), DiMRSettings.model_validate({"stages": stages}))
    rows: list[dict[str, object]] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for (name, published), own in zip(PUBLISHED.items(), settings, strict=True):
        network = own.build(latent)
        for dtype in (torch.float32, torch.bfloat16):
            step = training_step(network, latent.shape, 8, dtype == torch.bfloat16)
            step()
            times, peaks, own_peaks = [], [], []
            for _ in range(7):
                peaks.append(2 * 2048**3 / 1e9 / min(peak(torch.float32)))
                own_peaks.append(2 * 2048**3 / 1e9 / min(peak(dtype)))
                start = time.perf_counter()
                step()
                times.append(time.perf_counter() - start)
            scaled = [t / (published * PUBLISHED_PEAK[torch.float32] / p) for t, p in zip(times, peaks, strict=True)]
            by_own = [t / (published * PUBLISHED_PEAK[dtype] / p) for t, p in zip(times, own_peaks, strict=True)]
            rows.append(
                {
                    "what": f"training step, 1 thread, {name}, {'fp32' if dtype == torch.float32 else 'bf16'}",
                    "seconds": round(statistics.median(times), 3),
                    "best_seconds": round(min(times), 3),
                    "peak_gflops": round(statistics.median(own_peaks)),
                    "of_published": round(statistics.median(scaled), 2),
                    "of_published_spread": [round(min(scaled), 2), round(max(scaled), 2)],
                    "of_published_by_own_peak": round(statistics.median(by_own), 2),
                }
            )
    torch.set_num_threads(threads)
    return rows


def attention_step(explicit: bool) -> Callable[[], object]:
    q, k, v = (torch.randn(8, 4, 256, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def step() -> None:
        out = attend(q, k, v) if explicit else torch.nn.functional.scaled_dot_product_attention(q, k, v)
        out.float().square().mean().backward()

    return step


def main() -> None:
    keep_freed_memory()
    published = against_published()
    rows: list[dict[str, object]] = []
    fp32, bf16 = peak(torch.float32), peak(torch.bfloat16)
    flops = 2 * 2048**3 / 1e9
    rows.append(ratio("matrix product, fp32 / bf16", fp32, bf16))
    rows.append(
        ratio(
            "attention forward and backward in bf16, fused / explicit",
            seconds(attention_step(False)),
            seconds(attention_step(True)),
        )
    )
    networks = {
        "DiT 256x6, patch 2, 4x32x32, batch 8": (
            DiTSettings(patch=2).build(LatentSpec((4, 32, 32), "grid")),
            (4, 32, 32),
            8,
        ),
        "U-Net of depth/blocks, 3x64x64, batch 16": (
            UNetSettings(channels=(32, 64, 128), patch=2, attention=(2,)).build(LatentSpec((3, 64, 64), "grid")),
            (3, 64, 64),
            16,
        ),
    }
    for name, (network, shape, batch) in networks.items():
        slow = seconds(training_step(network, shape, batch, False), 4)
        fast = seconds(training_step(network, shape, batch, True), 4)
        rows.append(ratio(f"training step of {name}, fp32 / bf16", slow, fast))
    dit = networks["DiT 256x6, patch 2, 4x32x32, batch 8"][0]

    @torch.no_grad()
    def sample(guided: bool) -> None:
        guidance = IndicatorGuidance(2.0) if guided else NoGuidance()
        guidance(lambda z, t, null: dit(z, t, null), torch.randn(8, 4, 32, 32), 0.5)

    rows.append(
        ratio(
            "one evaluation in sampling, guided / plain", seconds(lambda: sample(True)), seconds(lambda: sample(False))
        )
    )
    rows.append(ratio("start of `bridgeflow --help` / `python -c pass`", *_starts()))
    rendered = _rendering()
    facts = {
        "threads": torch.get_num_threads(),
        "matrix_product_gflops": {"fp32": round(flops / min(fp32)), "bf16": round(flops / min(bf16))},
        "rendering_images_per_second": round(rendered),
        "against_published": published,
        "ratios": rows,
    }
    if "--json" in sys.argv:
        print(json.dumps(facts, indent=1))
        return
    print(f"{facts['threads']} threads, matrix product {facts['matrix_product_gflops']} GFLOP/s")
    print(f"rendering 2,048 blocks scenes at 64x64, all cores, written to disk: {rendered:,.0f} images/s")
    print("training steps against the published implementation's fp32 step, scaled by the fp32 peak of this core:")
    for row in published:
        low, high = row["of_published_spread"]  # type: ignore[misc, attr-defined]
        print(
            f"{row['what']:<76} {row['of_published']:>6}x  ({low} to {high}; by its own type's peak "
            f"{row['of_published_by_own_peak']}x)  {row['seconds']} s, best {row['best_seconds']} s, peak "
            f"{row['peak_gflops']} GFLOP/s"
        )
    print("ratios:")
    for row in rows:
        spread, times = row["spread"], row["seconds"]
        assert isinstance(spread, list)
        assert isinstance(times, list)
        print(f"{row['what']:<76} {row['ratio']:>6}  ({spread[0]} to {spread[1]})  {times[0]} s / {times[1]} s")


def _starts() -> tuple[list[float], list[float]]:
    def start(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], capture_output=True, check=True)

    return seconds(start("-m", "bridgeflow", "--help")), seconds(start("-c", "pass"))


def _rendering() -> float:
    from bridgeflow_plugins.blocks import Blocks

    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        Blocks(size=2048, cache=cache).open("train")
        return 2048 / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
