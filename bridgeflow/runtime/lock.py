"""One process at a time writes in a folder. The lock is the kernel's, so that it ends with the process, however that
ends."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bridgeflow.errors import BridgeflowError

try:
    import fcntl
except ImportError:  # Not a POSIX system.
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What flock says where another process has the lock; anything else means that the file system has none."""
_held: set[int] = set()


def _let_go_in_child() -> None:
    """A lock belongs to all who inherit its descriptor: a process that reads rows ahead would hold it on for as long
    as it takes to notice that the run was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


class FolderHeld(BridgeflowError):
    """Another process holds the folder."""


class FolderLock:
    """Holds a folder, which it makes where it is not there, until it is released.

    The file `.lock` names the process and its host, for a person to see. A folder that was made for the lock and holds
    nothing else when it is released is removed.

    Raises FolderHeld where another process holds the folder. Where the file system knows no locks, `warn` is
    called with a sentence, and `held` is False.
    """

    def __init__(self, folder: Path, what: str, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.held = False
        self.made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = None
        if fcntl is None:
            warn(f"this system locks no files: see to it that nothing else writes in {str(folder)!r}.")
            return
        while not self.held:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                if error.errno in HELD:
                    raise FolderHeld(
                        f"{what} {str(folder)!r} is being written by {holder}: wait for it, stop it, or choose another "
                        "--output."
                    ) from error
                reason = error.strerror or error
                warn(f"{str(folder)!r} cannot be locked ({reason}): see to it that nothing else writes there.")
                return
            # The one who held it before may have removed the file between opening and locking.
            self.held = _is_still(descriptor, folder / NAME)
            if self.held:
                self._descriptor = descriptor
                _held.add(descriptor)
            else:
                os.close(descriptor)
        self._sign()

    def _open(self) -> int:
        try:
            return os.open(self.folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            if self.made:
                self.folder.rmdir()
            raise

    def _sign(self) -> None:
        """Notes who holds it; a disk without space does not matter."""
        assert self._descriptor is not None
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def release(self) -> None:
        """Gives the folder back. It may be called twice."""
        if self._descriptor not in _held:
            return
        _held.discard(self._descriptor)
        with suppress(OSError):
            (self.folder / NAME).unlink()
            if self.made:
                self.folder.rmdir()
        os.close(self._descriptor)
        self._descriptor, self.held = None, False

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(facts['pid'])} on {facts['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
