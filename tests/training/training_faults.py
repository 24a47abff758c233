"""What goes wrong while files are written: kills, full disks, damage."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link"}


def forked(action: Callable[[], object]) -> int:
    """The exit code of a child that does something; minus the signal that ended it."""
    child = multiprocessing.get_context("fork").Process(target=action)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def killed_at(event: int, folder: Path, action: Callable[[], object]) -> int:
    """Does something in a child that is killed at its n-th touch of a file or folder below `folder`."""

    def child() -> None:
        left, inside = event, str(folder.resolve())

        def count(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if (
                name in EVENTS
                and isinstance(arguments[0], str | Path)
                and os.path.abspath(arguments[0]).startswith(inside)
            ):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        action()

    return forked(child)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file grows beyond a size, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def flip(path: Path, place: int = -1) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
