"""What is free on a device, and whether a run may begin there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator

from bridgeflow.assembly import Assembly
from bridgeflow.errors import BridgeflowError
from bridgeflow.nn.patches import usual_patch
from bridgeflow.runtime.console import Progress
from bridgeflow.training import sharding
from bridgeflow.training.estimate import Estimate, estimate, gigabytes

MARGIN = 0.9
"""Share of the free memory that a run may be expected to use."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now: of a GPU, or of main memory within the limits of this process's control
    groups and of its address space."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min(int(psutil.virtual_memory().available), *_free_in_groups(), *_free_addresses()))


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak so far: allocated on a GPU, or held by this process; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


CONTROL_GROUPS = Path("/sys/fs/cgroup")


def _free_in_groups(root: Path = CONTROL_GROUPS, of_process: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Bytes left to each control group of this process that has a limit, in version 2 or 1; a container sees its own as
    the root. What is merely cached of files counts as free."""
    with suppress(OSError):
        for line in of_process.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                base, names = root, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                base = root / "memory"
            else:
                continue
            own = base / path.lstrip("/")
            for group in (own, *own.parents):
                if group == base.parent:
                    break
                with suppress(OSError, ValueError):
                    limit, used = (int((group / name).read_text()) for name in names[:2])
                    yield limit - used + _cached(group, names[2])


def _cached(group: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _free_addresses() -> Iterator[int]:
    """Bytes left under `ulimit -v`, where that is set."""
    with suppress(ImportError, OSError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit - psutil.Process().memory_info().vms


def expected_memory(assembly: Assembly, accelerator: Accelerator) -> Estimate | None:
    """The estimate of one process of a run; None where a plugin's network cannot run on the meta device."""
    precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    found = estimate(assembly, precision, accelerator.device)
    return found.over(accelerator.num_processes) if found is not None and sharding.wanted(accelerator) else found


def fits(expected: Estimate, free: int, accelerator: Accelerator) -> bool:
    """Whether all processes that share the device's memory are expected to go into what is free of it."""
    sharing = 1 if accelerator.device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return expected.total * sharing <= MARGIN * free


def check_memory(assembly: Assembly, accelerator: Accelerator, console: Progress) -> None:
    """Raises BridgeflowError, naming the keys that take less, where a run is expected to need more than is free.

    `training.check_memory=false` leaves it out.
    """
    if not assembly.recipe.training.check_memory:
        return
    try:
        with console.doing("estimating the memory"):
            expected = expected_memory(assembly, accelerator)
    except Exception:
        # A fault of the network shows itself at the first step, whole.
        return
    free = free_memory(accelerator.device)
    if expected is None or fits(expected, free, accelerator):
        return
    part = max(expected.memory, key=expected.memory.__getitem__)
    raise BridgeflowError(
        f"training would take about {gigabytes(expected.total)} of memory a process, {gigabytes(expected.memory[part])}"
        f" of it for {part}, and {gigabytes(free)} are free: set {savings(assembly, expected)}; "
        "training.check_memory=false starts all the same."
    )


def savings(assembly: Assembly, expected: Estimate) -> str:
    """The keys of a recipe that make it take less."""
    recipe, encoder = assembly.recipe, assembly.recipe.keys.source_encoder
    keys = []
    for spec, key in ((assembly.source.latent, "patch"), (assembly.target.latent, "target_patch")):
        patch = getattr(encoder, key, None)
        if spec.layout == "grid" and patch is not None and usual_patch(spec) > patch:
            keys.append(f"source_encoder.{key}={usual_patch(spec)}")
    if recipe.training.batch_size > 1:
        keys.append("a smaller training.batch_size with more training.accumulation")
    if expected.recomputable and not recipe.training.gradient_checkpointing:
        keys.append("training.gradient_checkpointing=true")
    keys.append("a smaller network")
    return " or ".join(filter(None, (", ".join(keys[:-1]), keys[-1])))
