"""Fixtures that several rooms of tests share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from bridgeflow import registry
from tests.schedule import pytest_collection_modifyitems, pytest_xdist_make_scheduler

__all__ = ["pytest_collection_modifyitems", "pytest_xdist_make_scheduler"]

# The networks of the tests are tiny: more threads only wait for one another.
torch.set_num_threads(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution into a folder of its own on `sys.path`, as pip would leave it.

    `install("acme", {"bridgeflow.tasks": {"t": "acme_mod:T"}}, {"acme_mod.py": "..."}, version="2.1")`.
    """
    monkeypatch.delenv("BRIDGEFLOW_PLUGINS", raising=False)
    before = set(sys.modules)

    def make(
        name: str,
        points: Mapping[str, Mapping[str, str]],
        files: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> Path:
        folder = tmp_path / f"site-{name}-{version}"
        metadata = folder / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        sections = [
            "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in own.items())])
            for group, own in points.items()
        ]
        (metadata / "entry_points.txt").write_text("\n\n".join(sections) + "\n")
        for file, text in (files or {}).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        registry.forget()
        return folder

    registry.forget()
    yield make
    monkeypatch.undo()
    registry.forget()
    for module in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[module], "__file__", None)):
            del sys.modules[module]
