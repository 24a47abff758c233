"""`python -m tests.fuzz --cases 2000`: new hostile inputs each time, divided among the four kinds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

sys.path.insert(0, str(Path(__file__).parent))
import fuzzing

KINDS: dict[str, tuple[Any, Callable[[Any], str]]] = {
    "recipes": (fuzzing.recipes, fuzzing.read_recipe),
    "overrides": (fuzzing.overrides, fuzzing.read_override),
    "metadata": (fuzzing.metadata, lambda drawn: fuzzing.read_metadata(*drawn)),
    "pictures": (fuzzing.pictures, fuzzing.read_picture),
}


def main() -> int:
    """Draws the cases, says how many were refused, and fails with the smallest case that was answered wrongly."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same inputs again")
    given_arguments = parser.parse_args()
    each = max(1, given_arguments.cases // len(KINDS))
    print(f"seed {given_arguments.seed}", flush=True)
    total = 0
    for name, (strategy, read) in KINDS.items():
        started = time.monotonic()
        count, refused, slowest = _try(strategy, read, each, given_arguments.seed)
        total += count
        print(
            f"{name:<10} {count:,} cases, {refused:,} refused in sentences, no traceback, "
            f"{time.monotonic() - started:.0f} s, the slowest {slowest:.2f} s",
            flush=True,
        )
    print(f"{total:,} cases in all")
    return 0


def _try(strategy: Any, read: Callable[[Any], str], cases: int, number: int) -> tuple[int, int, float]:
    """How many cases were drawn, how many were refused, and the seconds of the slowest."""
    seconds: list[float] = []
    refused = 0

    @seed(number)
    @settings(max_examples=cases, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def case(drawn: Any) -> None:
        nonlocal refused
        began = time.monotonic()
        refused += bool(read(drawn))
        seconds.append(time.monotonic() - began)

    case()
    return len(seconds), refused, max(seconds)


if __name__ == "__main__":
    sys.exit(main())
