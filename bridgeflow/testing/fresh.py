"""A modality in a process that has never met its plugin, from files alone: what training leaves to `run`."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridgeflow.modality import Latent, Modality
from bridgeflow.registry import Plugin, PluginError
from bridgeflow.registry.probe import SECONDS, watched
from bridgeflow.settings import Settings
from bridgeflow.testing.outcome import described

REQUEST, STATE, ITEMS = "request.json", "state.safetensors", "items.pickle"
ANSWER, LATENT = "answer.json", "latent.safetensors"


@dataclass(frozen=True)
class Elsewhere:
    """What came of a modality in another process: `failed` is the method that failed there with `error`, or empty."""

    fingerprint: str = ""
    latent: Latent | None = None
    failed: str = ""
    error: str = ""


def importable(kind: type[Any]) -> bool:
    """Whether another process can find the class by its module and name."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind and kind.__module__ != "__main__"


def imported_elsewhere(plugin: Plugin) -> tuple[str, ...]:
    """Sentences on what importing a plugin does besides, in another process; see `probe.watched`."""
    with tempfile.TemporaryDirectory() as folder:
        said, _ = _asked({"plugin": asdict(plugin)}, Path(folder))
        return () if said is None else tuple(said["notes"])


def end_of_import(plugin: Plugin, seconds: float = SECONDS) -> str:
    """How importing a plugin ends the process that does it, or that it takes longer than some seconds; empty where it
    does neither, though it may fail."""
    with tempfile.TemporaryDirectory() as folder:
        said, code = _asked({"plugin": asdict(plugin), "seconds": seconds}, Path(folder))
    if said is not None:
        return ""
    if hasattr(signal, "SIGALRM") and code == -signal.SIGALRM:
        return f"importing it takes longer than {seconds:.0f} seconds"
    return f"importing it ended the process with code {code}"


def restored_elsewhere(
    kind: type[Modality], settings: Settings, state: Mapping[str, Tensor], facts: Mapping[str, Any], items: bytes
) -> Elsewhere:
    """Builds, restores and asks a modality in another process, which salts the hashes of strings differently. It
    encodes the items, a pickled list."""
    request = {
        "module": kind.__module__,
        "name": kind.__qualname__,
        "options": settings.model_dump_json(),
        "facts": dict(facts),
        "threads": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory() as folder:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, Path(folder, STATE))
        Path(folder, ITEMS).write_bytes(items)
        said, _ = _asked(request, Path(folder))
        if said is None:
            return Elsewhere(failed="__init__", error="it ended the process")
        if said["failed"]:
            return Elsewhere(**said)
        parts = load_file(Path(folder, LATENT))
        return Elsewhere(latent=Latent(parts["mean"], parts.get("std"), parts.get("mask")), **said)


def _asked(request: Mapping[str, Any], folder: Path) -> tuple[Any, int]:
    """The answer to a request, which finds its files in a folder, and the exit code of the process that gave it; None
    for an answer where that process ended before it."""
    here = {
        "environ": dict(os.environ),
        "path": [entry or os.getcwd() for entry in sys.path],
        "working": os.getcwd(),
    }
    (folder / REQUEST).write_text(json.dumps({**request, **here}), encoding="utf-8")
    code = _Server.ask(str(folder))
    answer = folder / ANSWER
    return (json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else None), code


class _Server:
    """A process that has imported torch but no plugin, and copies itself for each request: importing takes longer than
    all the rest. Where a process cannot copy itself, it answers one request."""

    process: subprocess.Popen[str] | None = None

    @classmethod
    def ask(cls, folder: str) -> int:
        """Answers the request that lies in a folder; gives the exit code of the process that did."""
        if cls.process is None or cls.process.poll() is not None:
            cls.process = cls._start()
        process = cls.process
        # A process that has ended wrote no answer, which is recognised by its lack.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(folder), file=process.stdin, flush=True)
            line = process.stdout.readline() if process.stdout is not None else ""
            if line:
                return int(line)
            # Its end of the pipe is closed, so that it is about to end by itself.
            process.wait()
        cls.stop()
        return process.returncode

    @classmethod
    def _start(cls) -> subprocess.Popen[str]:
        salt = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        return subprocess.Popen(
            [sys.executable, "-P", "-c", "from bridgeflow.testing.fresh import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": salt},
        )

    @classmethod
    def stop(cls) -> None:
        """Ends the process, where there is one."""
        process, cls.process = cls.process, None
        if process is not None:
            process.kill()
            process.communicate()


atexit.register(_Server.stop)


def serve() -> None:
    """Answers requests, each a line with the folder that holds it, until there are no more."""
    for line in sys.stdin:
        folder = Path(json.loads(line))
        if not hasattr(os, "fork"):
            _quietly(folder)
            print(0, flush=True)
            return
        child = os.fork()
        if child == 0:
            try:
                _quietly(folder)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _quietly(folder: Path) -> None:
    """Answers a request; what a plugin prints goes nowhere."""
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            _answer(folder)
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _answer(folder: Path) -> None:
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    os.environ.update(request["environ"])
    os.chdir(request["working"])
    sys.path[:] = request["path"]
    if "seconds" in request and hasattr(signal, "SIGALRM"):
        # Ends this process, whatever it is held up by.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    said = _import(Plugin(**request["plugin"])) if "plugin" in request else _restore(folder, request)
    (folder / ANSWER).write_text(json.dumps(said), encoding="utf-8")


def _import(plugin: Plugin) -> dict[str, Any]:
    try:
        return {"notes": watched(plugin)}
    except (PluginError, KeyboardInterrupt):
        # Told by the check of the contract.
        return {"notes": ()}


def _restore(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(request["threads"])
    doing, fingerprint, error = "import", "", ""
    try:
        kind: Any = importlib.import_module(request["module"])
        for name in request["name"].split("."):
            kind = getattr(kind, name)
        doing = "__init__"
        modality: Modality = kind(kind.Options.model_validate_json(request["options"]))
        doing = "restore"
        state = load_file(folder / STATE)
        if state or request["facts"]:
            modality.restore(state, request["facts"])
        doing = "needs_fit"
        if modality.needs_fit:
            raise RuntimeError("it still needs fitting")
        doing = "encode"
        items = pickle.loads((folder / ITEMS).read_bytes())
        with torch.no_grad():
            latent = modality.encode(modality.collate(items))
        tensors = {"mean": latent.mean, "std": latent.std, "mask": latent.mask}
        save_file({name: t.contiguous() for name, t in tensors.items() if t is not None}, folder / LATENT)
        doing = "fingerprint"
        fingerprint = modality.fingerprint()
        doing = ""
    except (Exception, SystemExit) as failure:
        error = described(failure)
    return {"fingerprint": fingerprint, "failed": doing, "error": error}
