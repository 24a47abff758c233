"""Every check of a tracker, tried on one that breaks it; the reports name the fault and the fix."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image
from pydantic import ConfigDict
from testing_fine import FineTracker, Lines, Spoilt

from bridgeflow.cli.main import invoke
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.testing import check_tracker, tracker_checks
from bridgeflow.testing.outcome import reached
from bridgeflow.tracker import TrackedRun, Tracker

Install = Callable[..., Path]
SPOILT = Spoilt()
spoils = SPOILT.by


def of(tracker: type[Tracker], name: str) -> type[FineTracker]:
    """Settings that build a tracker."""
    # For docstrings pydantic would read the source of every frame of pytest.
    body = {"build": lambda self: tracker(), "model_config": ConfigDict(use_attribute_docstrings=False)}
    return type(name, (FineTracker,), body)


@spoils("contract", "version 0 of the contract")
class OldTracker(FineTracker):
    api_version: ClassVar[int] = 0


@spoils("contract", "no subclass of bridgeflow.tracker.TrackerSettings")
class NoTracker:
    pass


@spoils("contract", "`summary` says nothing")
class SaysNothing(FineTracker):
    summary: ClassVar[str] = ""


@spoils("waivers", "names 'tracking', which is no check")
class WaivesNothing(FineTracker):
    waived: ClassVar[Mapping[str, str]] = {"tracking": "x"}


@spoils("options", "the option 'key' has no default: give it one")
class Needy(FineTracker):
    key: str


@spoils("build", "`build` failed (no account: log in): fix `build`.")
class NoAccount(FineTracker):
    def build(self) -> Tracker:
        raise BridgeflowError("no account: log in.")


@spoils("build", "`build` gave a dict: let it give a bridgeflow.tracker.Tracker")
class BuildsADict(FineTracker):
    def build(self) -> Any:
        return {}


@spoils("build", "`build` gave the same tracker twice")
class OneForAll(FineTracker):
    one: ClassVar[Tracker] = Lines()

    def build(self) -> Tracker:
        return self.one


class StartsNot(Lines):
    def start(self, run: TrackedRun) -> None:
        raise ConnectionError("no route to host")


class WantsStrings(Lines):
    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        self.file.write("".join(figures.values()))


class WantsSquares(Lines):
    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        assert picture.width == picture.height


class Unfinished(Lines):
    def close(self) -> None:
        raise NotImplementedError


class WantsNewFolder(Lines):
    def start(self, run: TrackedRun) -> None:
        (run.folder / "fine").mkdir()
        super().start(run)


class WantsAnEnd(Lines):
    """Goes on only where the run before was closed."""

    def start(self, run: TrackedRun) -> None:
        if (run.folder / "fine" / "open").exists():
            raise RuntimeError("the run before was not closed")
        super().start(run)
        (self.folder / "open").touch()

    def close(self) -> None:
        super().close()
        (self.folder / "open").unlink()


class RenamesFigures(Lines):
    def log(self, step: int, figures: Any) -> None:
        figures["loss"] = figures.pop("train/loss")


class FillsRecipe(Lines):
    def start(self, run: TrackedRun) -> None:
        super().start(run)
        run.recipe["training"]["tracked"] = True


class Shrinks(Lines):
    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        picture.thumbnail((8, 8))


class TakesOver(Lines):
    def start(self, run: TrackedRun) -> None:
        super().start(run)
        (run.folder / "metrics.jsonl").unlink(missing_ok=True)


class Greets(Lines):
    def start(self, run: TrackedRun) -> None:
        print("tracking", run.name)
        super().start(run)


class SaysGoodbye(Lines):
    def close(self) -> None:
        os.write(1, b"goodbye\n")
        super().close()


for tracker, check, words in (
    (StartsNot, "start", "`start` failed on a run (ConnectionError: no route to host): fix `start`."),
    (WantsStrings, "log", "`log` failed on step 1 (TypeError"),
    (WantsSquares, "picture", "`picture` failed on a picture of 16x12 (AssertionError: "),
    (Unfinished, "close", "`close` failed (NotImplementedError): fix `close`."),
    (WantsNewFolder, "second run", "`start` failed on a run that goes on (FileExistsError"),
    (WantsAnEnd, "second run", "`start` failed on a run that goes on (RuntimeError: the run before was not closed)"),
    (RenamesFigures, "inputs untouched", "`log` changed the figures it was given: work on a copy"),
    (FillsRecipe, "inputs untouched", "`start` changed the recipe it was given: work on a copy"),
    (Shrinks, "inputs untouched", "`picture` changed the picture it was given: work on a copy"),
    (TakesOver, "files of the run", "it changed or removed metrics.jsonl of the run: write into a folder of its own"),
    (Greets, "stdout", "`start` prints 'tracking run-04' on stdout, where results go"),
    (SaysGoodbye, "stdout", "`close` prints 'goodbye' on stdout, where results go"),
):
    SPOILT[of(tracker, tracker.__name__)] = (check, words)


@pytest.mark.parametrize("kind", SPOILT, ids=lambda kind: kind.__name__)
def test_one_check_finds_the_fault(kind: type[Any]) -> None:
    check, words = SPOILT[kind]
    failed = {outcome.check.name: outcome.message for outcome in check_tracker(kind) if outcome.status == "failed"}
    told = {name: message for name, message in failed.items() if not message.startswith("not reached, ")}
    assert list(told) == [check], told
    assert words in told[check]
    assert "\n" not in told[check]


def test_a_tracker_without_a_fault_passes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcomes = check_tracker(FineTracker, {"prefix": "own/"})
    assert {outcome.status for outcome in outcomes} == {"passed"}
    assert list(tmp_path.iterdir()) == []


def test_every_check_but_those_of_installed_trackers_has_a_tracker_that_breaks_it() -> None:
    assert {check for check, _ in SPOILT.values()} == {c.name for c in tracker_checks()} - {"listing", "import"}


def test_a_waived_check_is_not_tried() -> None:
    kind = type("Forgiven", (of(Unfinished, "Inner"),), {"waived": {"close": "it has no end", "stdout": "neither"}})
    outcomes = {outcome.check.name: outcome for outcome in check_tracker(kind)}
    assert (outcomes["close"].status, outcomes["close"].message) == ("waived", "it has no end")
    assert outcomes["stdout"].status == "waived"
    assert (outcomes["second run"].status, reached(outcomes["second run"])) == ("failed", True)


def test_the_command_checks_an_installed_one_with_options(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"acme_tracker.py": "from testing_fine import FineTracker as Acme\n"}
    install("acme", {"bridgeflow.trackers": {"acme": "acme_tracker:Acme"}}, files, "2.1")
    assert invoke(["plugins", "check", "acme", "prefix=own/"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tracker acme of acme 2.1"
    assert lines[-1] == f"{len(tracker_checks())} checks: {len(tracker_checks())} passed"
    assert invoke(["plugins", "check", "acme", "--kind", "tracker", "prefx=own/"]) == 2
    assert "prefx: unknown key. Did you mean 'prefix'?" in capsys.readouterr().err
    (facts,) = json.loads((invoke(["plugins", "info", "acme", "--json"]), capsys.readouterr().out)[1])
    assert (facts["kind"], facts["about"]) == ("tracker", "lines of JSON")
    assert invoke(["plugins", "list", "--kind", "tracker"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tracker", "acme", "ok", "acme", "2.1", "acme_tracker:Acme"] in rows


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no tracker 'tensorbord'\. Did you mean 'tensorboard'\?"):
        check_tracker("tensorbord")
