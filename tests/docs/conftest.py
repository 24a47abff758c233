"""Fixtures of the tests of the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs_reader import SCENES, TINY, TINY_TASK, WORDS, write_files

from bridgeflow.cli.main import invoke


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who reads the documentation: files, runs/TASK-blocks-01 of each task and runs/words-0."""
    folder = tmp_path_factory.mktemp("reader")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGEFLOW_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        for task, own in TINY_TASK.items():
            assert invoke(["train", "--task", task, *TINY, *SCENES, *own]) == 0
        assert invoke(["train", "--task", "t2i", *TINY, *SCENES, *WORDS]) == 0
    return folder
