"""The checks of a tracker, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bridgeflow.testing import declarations, printing, tracking
from bridgeflow.testing.outcome import Check, Outcome, Table, examine
from bridgeflow.testing.tracker_subject import TrackerSubject
from bridgeflow.tracker import TrackerSettings


def _contract(subject: TrackerSubject) -> str | None:
    declarations.check_declared(subject.kind)
    return f"version {subject.kind.api_version}"


def _listing(subject: TrackerSubject) -> str | None:
    return declarations.check_listing(subject.loaded[1])


def _import(subject: TrackerSubject) -> str | None:
    return declarations.check_import(subject.loaded[1])


def _options(subject: TrackerSubject) -> str | None:
    return declarations.check_options(subject.settings)


def _waivers(subject: TrackerSubject) -> str | None:
    return declarations.check_waivers(subject.kind.waived, (check.name for check in tracker_checks()))


TABLE: Table[TrackerSubject] = (
    (Check("contract", "It loads, is a TrackerSettings, and is written for this version of the contract."), _contract),
    (Check("waivers", "Every waiver names a check and gives a reason."), _waivers),
    (Check("listing", "Listing the plugins imports neither torch nor the plugin."), _listing),
    (Check("import", "Importing it is quick, prints nothing, and stays in the working folder."), _import),
    (Check("options", "Settings have defaults, go through JSON and back, and refuse unknown keys."), _options),
    (Check("build", "`build` gives a tracker, a new one each time."), tracking.check_build),
    (Check("start", "It begins to track a run."), tracking.check_start),
    (Check("log", "It takes the figures of steps."), tracking.check_log),
    (Check("picture", "It takes a picture."), tracking.check_picture),
    (Check("close", "It ends when the run does."), tracking.check_close),
    (Check("second run", "It goes on in the folder of a run that was stopped, or killed."), tracking.check_second_run),
    (Check("inputs untouched", "Nothing that is handed in is changed."), tracking.check_untouched),
    (Check("files of the run", "The files that a run has are left as they are."), tracking.check_files),
    (Check("stdout", "Its methods print nothing on stdout, where results go."), printing.check_tracker),
)


def tracker_checks() -> tuple[Check, ...]:
    """The checks of a tracker, in the order in which they are tried."""
    return tuple(check for check, _ in TABLE)


def examine_tracker(subject: TrackerSubject) -> Iterator[Outcome]:
    """The outcomes, one by one as they come."""
    for check, tried in TABLE:
        yield examine(check, tried, subject)


def check_tracker(tracker: str | type[TrackerSettings], options: Mapping[str, Any] | None = None) -> list[Outcome]:
    """What comes of every check of a tracker: a registered name, or the class of its settings.

    `options` are laid over the defaults. It is given made-up runs, in folders that are removed afterwards;
    one that sends its figures elsewhere does so. A check that could not be reached says which one failed before it.
    Raises UsageError for a name that is not installed, and for options that do not suit.
    """
    return list(examine_tracker(TrackerSubject(tracker, options)))
