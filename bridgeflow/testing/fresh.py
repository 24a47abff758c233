"""A modality in a process that has never met its plugin, from files alone: what training leaves to `run`."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pickle
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
from bridgeflow.registry.probe import watched
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
        said = _asked({"plugin": asdict(plugin)}, Path(folder))
        return () if said is None else tuple(said["notes"])


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
        said = _asked(request, Path(folder))
        if said is None:
            return Elsewhere(failed="__init__", error="it ended the process")
        latent = Latent(**load_file(Path(folder, LATENT))) if not said["failed"] else None
        return Elsewhere(latent=latent, **said)


def _asked(request: Mapping[str, Any], folder: Path) -> Any:
    """The answer to a request, which finds its files in a folder; None where the other process ended before it."""
    here = {
        "environ": dict(os.environ),
        "path": [entry or os.getcwd() for entry in sys.path],
        "working": os.getcwd(),
    }
    (folder / REQUEST).write_text(json.dumps({**request, **here}), encoding="utf-8")
    _Server.ask(str(folder))
    answer = folder / ANSWER
    return json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else None


class _Server:
    """A process that has imported torch but no plugin, and copies itself for each request: importing takes longer than
    all the rest. Where a process cannot copy itself, it answers one request."""

    process: subprocess.Popen[str] | None = None

    @classmethod
    def ask(cls, folder: str) -> None:
        """Answers the request that lies in a folder."""
        if cls.process is None or cls.process.poll() is not None:
            cls.process = cls._start()
        process = cls.process
        # A process that has ended wrote no answer, which is told by its lack.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(folder), file=process.stdin, flush=True)
            if process.stdout is not None and process.stdout.readline():
                return
        cls.stop()

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
        if hasattr(os, "fork"):
            child = os.fork()
            if child == 0:
                try:
                    _quietly(folder)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
        else:
            _quietly(folder)
        print("done", flush=True)
        if not hasattr(os, "fork"):
            return


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
    said = _import(Plugin(**request["plugin"])) if "plugin" in request else _restore(folder, request)
    (folder / ANSWER).write_text(json.dumps(said), encoding="utf-8")


def _import(plugin: Plugin) -> dict[str, Any]:
    try:
        return {"notes": watched(plugin)}
    except PluginError:
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
