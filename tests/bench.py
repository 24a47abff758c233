"""Speed, as ratios of one run: `make bench`, or `python -m tests.bench [--only NAME ...] [--json FILE]`.

Prints a table; every figure has its spread, and its bar where it has one. Quiet machines give narrow spreads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from bridgeflow.training.allocator import keep_freed_memory
from tests import bench_growth, bench_runs, bench_sampling, bench_steps
from tests.bench_measure import Figure


def _cached() -> list[Figure]:
    from tests.bench_cache import cached_against_uncached

    # The bar is that of a codec of the size in use; a small one is quick enough to encode at every step.
    return [_figure(row, "" if index else ">= 3") for index, row in enumerate(cached_against_uncached())]


def _figure(row: Mapping[str, Any], bar: str = "") -> Figure:
    """A figure from a row with what, ratio, spread and, where there are two, seconds."""
    low, high = row["spread"]
    names = row.get("names", ("slow", "fast"))
    seconds = dict(zip(names, row.get("seconds", ()), strict=False))
    return Figure(row["what"], row["ratio"], (low, high), row.get("unit", "x"), bar, seconds)


SECTIONS: dict[str, tuple[str, Callable[[], list[Figure]]]] = {
    "peak": ("steps against the machine's matrix product", bench_steps.shares_of_peak),
    "attention": ("fused attention against two products and a softmax", bench_steps.attention),
    "memory": ("gradient checkpointing", bench_steps.memory),
    "cache": ("training from a cache against encoding at every step", _cached),
    "wait": ("the loader's share", bench_runs.data_wait),
    "processes": ("two processes against one", bench_runs.processes),
    "start": ("cold starts", bench_runs.cold_starts),
    "render": ("the renderer", bench_runs.rendering),
    "sampling": ("sampling by evaluations of the network", bench_sampling.sampling),
    "growth": ("how cost grows", bench_growth.growth),
    "compile": ("torch.compile", bench_runs.compiling),
}
ASKED = ("compile",)
"""Sections that run only by --only: they take minutes."""


def machine() -> dict[str, Any]:
    """What was measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": [round(own, 2) for own in os.getloadavg()],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*SECTIONS], help="this section alone; may be repeated")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    keep_freed_memory()
    facts = machine()
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    results: dict[str, list[dict[str, Any]]] = {}
    for name in options.only or [own for own in SECTIONS if own not in ASKED]:
        title, measure = SECTIONS[name]
        start = time.perf_counter()
        print(f"\n{name}: {title}", flush=True)
        figures = measure()
        for figure in figures:
            print(figure.line())
        print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)
        results[name] = [figure.json() for figure in figures]
    facts["load_after"] = [round(own, 2) for own in os.getloadavg()]
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": facts, "figures": results}, indent=1), encoding="utf-8")
    missed = [own["what"] for figures in results.values() for own in figures if own["met"] is False]
    print("\nevery bar is met" if not missed else "\nbars missed: " + "; ".join(missed))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
