"""How importing a plugin ends is found out in another process, which harms no later question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridgeflow import registry
from bridgeflow.testing import fresh

Install = Callable[..., Path]


@pytest.mark.parametrize(
    ("source", "end"),
    [
        ("import os; os._exit(7)", "importing it ended the process with code 7"),
        ("import os; os._exit(0)", "importing it ended the process with code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "importing it ended the process with code -11"),
        # Held up where no exception of Python's comes through.
        ("import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()", "importing it takes longer than"),
        # These fail, which is told of by whoever loads them.
        ("raise ValueError('no licence')", ""),
        ("raise SystemExit(3)", ""),
        ("raise KeyboardInterrupt", ""),
        ("from testing_fine import Fine as Acme", ""),
    ],
    ids=["exit 7", "exit 0", "crash", "hangs", "raises", "exits", "interrupts", "fine"],
)
def test_how_importing_a_plugin_ends_its_process(install: Install, source: str, end: str) -> None:
    install("acme", {"bridgeflow.modalities": {"acme": "acme_mod:Acme"}}, {"acme_mod.py": source})
    found = fresh.end_of_import(registry.find("modality", "acme"), 1.5 if "longer" in end else 60)
    assert found == (f"{end} 2 seconds" if "longer" in end else end)


def test_one_process_answers_them_all(install: Install) -> None:
    files = {"ends.py": "import os; os._exit(7)", "fine.py": "from testing_fine import Fine as Acme"}
    install("acme", {"bridgeflow.modalities": {"ends": "ends:Acme", "fine": "fine:Acme"}}, files)
    ends, fine = (registry.find("modality", name) for name in ("ends", "fine"))
    assert fresh.end_of_import(fine) == ""
    answering = fresh._Server.process
    assert answering is not None
    assert fresh.end_of_import(ends) != ""
    assert fresh.end_of_import(fine) == ""
    assert fresh._Server.process is answering
    assert answering.poll() is None
