"""What the environment says of a launcher: whether this is one of several processes, and whether they can meet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bridgeflow.errors import BridgeflowError, UsageError

# In the order in which accelerate asks for them.
WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


def world_size() -> int:
    """Processes of the run. Raises UsageError where the variable is no number."""
    return _first(WORLD_SIZE, 1)


def rank() -> int:
    """This process's number among those of the run. Raises UsageError where a variable is no number."""
    return _first(RANK, 0) if is_one_of_several() else 0


def is_one_of_several() -> bool:
    """Whether a launcher (`accelerate launch`, torchrun, mpirun) started this process, or its variables are still set.
    Raises UsageError where one of them is no number."""
    return _first(LOCAL_RANK[:1], -1) != -1 or world_size() > 1


@contextmanager
def meeting(on_cpu: bool) -> Iterator[None]:
    """Around whatever brings the processes of a run together. Raises BridgeflowError where they cannot meet: variables
    of a launcher are left in the environment of a single process, or some are missing or wrong."""
    if not is_one_of_several():
        yield
        return
    from torch import distributed

    stray = [name for name in (*WORLD_SIZE, *RANK, *LOCAL_RANK) if name in os.environ]
    stated = ", ".join(f"{name}={os.environ[name]}" for name in stray)
    fix = (
        f"unset {' '.join(stray)} to use this process alone, or start all of them with accelerate launch or torchrun, "
        "which set what is needed."
    )
    needed = ("MASTER_ADDR",) if on_cpu else ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    missing = [name for name in needed if not os.environ.get(name)]
    if missing and not (on_cpu and distributed.is_mpi_available()):
        raise UsageError(
            f"the environment has {stated}, as one of several processes has, but not {', '.join(missing)}, without "
            f"which they cannot meet: {fix}"
        )
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if distributed.is_initialized():
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BridgeflowError(f"the processes of which this is one ({stated}) cannot meet ({reason}): {fix}") from error


def _first(names: Sequence[str], usual: int) -> int:
    """The first of several variables that is set to a number from 0 on, as accelerate reads them."""
    for name in names:
        try:
            value = int(os.environ.get(name, -1))
        except ValueError as error:
            raise UsageError(
                f"the variable {name} is {os.environ[name]!r} where a launcher sets a whole number: unset {name}."
            ) from error
        if value >= 0:
            return value
    return usual
