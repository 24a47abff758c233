"""What importing a plugin does to the process besides is set back, and named in one sentence."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from bridgeflow import registry
from bridgeflow.cli.main import invoke
from bridgeflow.errors import PluginWarning
from bridgeflow.registry import probe
from bridgeflow.registry.foreign import in_place, quickly

Install = Callable[..., Path]

DATA = """
from bridgeflow.data.rows import DataSettings
class Mine(DataSettings):
    def open(self, split, progress=None): return {}["rows"]
"""
MOVES = "import os\nos.chdir('/')\n"
# A clock that leaps once, in place of waiting.
LEAPS = """
import time
def leap(own=time.perf_counter):
    time.perf_counter = own
    return own() + 7
time.perf_counter = leap
"""
MOVED = (
    "importing the dataset 'mine' of acme 3.0 changed the working folder, which was set back: take os.chdir out of the "
    "plugin."
)
SLOW = (
    "importing the dataset 'mine' of acme 3.0 took 7.0 s, which every command that uses it waits for: let the plugin "
    "import what is slow in the methods that need it."
)
PRINTS = (
    "importing the dataset 'mine' of acme 3.0 prints 'hello' on stdout, where results belong: log it, or print it to "
    "sys.stderr."
)


@pytest.fixture
def mine(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a data set whose module begins with other lines, and works in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def make(lines: str) -> None:
        install("acme", {"bridgeflow.datasets": {"mine": "acme_mine:Mine"}}, {"acme_mine.py": lines + DATA}, "3.0")

    return make


@pytest.mark.parametrize(("lines", "told"), [("", []), (MOVES, [MOVED]), (LEAPS, [SLOW])], ids=["", "moves", "slow"])
def test_an_import_is_told_of_once_and_leaves_the_working_folder(
    mine: Callable[[str], None], tmp_path: Path, lines: str, told: list[str]
) -> None:
    mine(lines)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert registry.load("dataset", "mine").__name__ == "Mine"
        assert registry.load("dataset", "mine").__name__ == "Mine"
    assert [str(own.message) for own in caught if issubclass(own.category, PluginWarning)] == told
    assert Path.cwd() == tmp_path


def test_a_command_says_it_in_one_sentence_on_stderr(
    mine: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    mine(MOVES)
    assert invoke(["plugins", "info", "mine", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 1
    assert err == f"warning: {MOVED}\n"


def test_lists_and_the_doctor_name_what_works_but_should_be_mended(
    mine: Callable[[str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine(f"print('hello')\n{MOVES}{LEAPS}")
    assert invoke(["plugins", "list", "--kind", "dataset", "--json"]) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "mine"]
    assert (row["status"], row["cause"]) == ("ok", "")
    assert row["notes"] == [SLOW, MOVED, PRINTS]

    plugin = registry.find("dataset", "mine")
    monkeypatch.setattr(probe, "verdicts", lambda *_, **__: {plugin: probe.Verdict("ok", notes=tuple(row["notes"]))})
    assert invoke(["plugins", "list", "--kind", "dataset"]) == 0
    assert capsys.readouterr().out.endswith(f"\n{SLOW}\n\n{MOVED}\n\n{PRINTS}\n")
    assert invoke(["doctor"]) == 0
    assert f"note: {SLOW}\nnote: {MOVED}\nnote: {PRINTS}\neverything is in order" in capsys.readouterr().out


def test_the_folder_is_set_back_where_the_import_fails_too(mine: Callable[[str], None], tmp_path: Path) -> None:
    mine(f"{MOVES}raise ValueError('no licence')\n")
    with pytest.warns(PluginWarning, match="changed the working folder"), pytest.raises(registry.PluginError):
        registry.load("dataset", "mine")
    assert Path.cwd() == tmp_path


def test_a_folder_that_was_removed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with in_place("importing it"):
            pass
        with in_place("importing it"):
            os.chdir(tmp_path)
    assert Path.cwd() == tmp_path


def test_two_seconds_are_quick_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, said in ((1.9, 0), (2.1, 1)):
        ticks = iter((10.0, 10.0 + seconds))
        monkeypatch.setattr(time, "perf_counter", lambda ticks=ticks: next(ticks))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with quickly("importing it"):
                pass
        monkeypatch.undo()
        assert len(caught) == said
