"""The programs beside the tests start, whatever else is installed under the name of their package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["bench", "bench_arithmetic", "stress", "fuzz.__main__"])
def test_a_program_of_the_makefile_is_found(name: str) -> None:
    find = f"import importlib.util as u; s = u.find_spec('tests.{name}'); print(s.origin)"
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", find], cwd=root, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(root / "tests")
