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
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.attention import attend
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.nn.velocity import VelocityNet


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
            loss = (network(z, t, null).float() - z).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def attention_step(explicit: bool) -> Callable[[], object]:
    q, k, v = (torch.randn(8, 4, 256, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def step() -> None:
        out = attend(q, k, v) if explicit else torch.nn.functional.scaled_dot_product_attention(q, k, v)
        out.float().square().mean().backward()

    return step


def main() -> None:
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
        "ratios": rows,
    }
    if "--json" in sys.argv:
        print(json.dumps(facts, indent=1))
        return
    print(f"{facts['threads']} threads, matrix product {facts['matrix_product_gflops']} GFLOP/s")
    print(f"rendering 2,048 blocks scenes at 64x64, all cores, written to disk: {rendered:,.0f} images/s")
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
