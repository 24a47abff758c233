"""Processes that begin with torch imported: what a command of bridgeflow waits for most is there once, not each time.

`python warm.py SOCKET` imports it, forks for every `python -m MODULE ARGUMENTS` asked for over the socket, and gives
that process the folder, the variables and the streams of who asked. What an installation has changed since is looked
for anew, as at the start of any Python. `python warm.py SOCKET MODULE ARGUMENTS...` is who asks.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LONGEST = 2**20
"""Bytes of a request; the variables of the environment are most of them."""


class Warm:
    """A server of an environment. python: its interpreter; environment: the variables that it starts with."""

    def __init__(self, python: Path, environment: Mapping[str, str]) -> None:
        # The path of a socket has a length that those of pytest's folders exceed.
        self._folder = tempfile.TemporaryDirectory()
        place = f"{self._folder.name}/warm"
        self._server = subprocess.Popen(
            [python, __file__, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment)
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        self.line = [str(python), "-I", "-S", __file__, place]
        """The command that stands for `python -m`: a module and its arguments follow."""

    def close(self) -> None:
        """Ends the server; what it runs still goes on."""
        self._server.communicate()
        self._folder.cleanup()


def ask(place: str, module: str, arguments: list[str]) -> int:
    """The exit code of `python -m MODULE ARGUMENTS`, which the server at this place runs."""
    request = {"module": module, "arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
        asking.connect(place)
        socket.send_fds(asking, [json.dumps(request).encode()], [0, 1, 2])
        answer = asking.recv(16)
    return int(answer) if answer else 70


def serve(place: str) -> None:
    """Answers until its standard input ends, as it does with the process that started it."""
    import gc
    import importlib.metadata
    import selectors

    # The folder of this file, whose folders are called as packages are.
    del sys.path[0]
    for module in ("bridgeflow.api", "bridgeflow.cli.main", "bridgeflow.testing", "bridgeflow.training.start"):
        importlib.import_module(module)
    # The modules of the built-in plugins, too; who asks still finds them by their entry points.
    for point in importlib.metadata.distribution("bridgeflow-torch").entry_points:
        importlib.import_module(point.module)
    # The collector would touch, and so copy, the pages of every object in each process.
    gc.collect()
    gc.freeze()

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening, selectors.DefaultSelector() as events:
        listening.bind(place)
        listening.listen()
        events.register(listening, selectors.EVENT_READ)
        events.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            if any(key.fileobj is sys.stdin for key, _ in events.select()):
                return
            asked, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _answer(asked)
            asked.close()
            while _reaped():
                pass


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _answer(asked: socket.socket) -> None:
    """Runs what is asked for in a process of its own, so that its code is known after all that ends with it."""
    text, streams, _, _ = socket.recv_fds(asked, LONGEST, 3)
    worker = os.fork()
    if worker == 0:
        asked.close()
        for own, given in enumerate(streams):
            os.dup2(given, own)
            os.close(given)
        _run(**json.loads(text))
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    asked.send(str(code).encode())
    os._exit(0)


def _run(module: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    import atexit
    import runpy
    import site
    import traceback

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for own in site.getsitepackages():
        site.addsitedir(own)
    sys.path_importer_cache.clear()
    sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    code: str | int | None = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    # What is to happen at the end happens; that every module of torch is then taken apart takes a second.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(ask(sys.argv[1], sys.argv[2], sys.argv[3:]))
    serve(sys.argv[1])
