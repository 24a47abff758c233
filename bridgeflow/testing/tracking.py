"""Checks of what a tracker does with a run that is made up."""

from __future__ import annotations

import copy

from bridgeflow.testing.outcome import Fault, calling
from bridgeflow.testing.tracker_subject import OWN_FILES, RECIPE, STEPS, TrackerSubject, Trial, figures_of, picture
from bridgeflow.tracker import TrackedRun


def check_build(subject: TrackerSubject) -> str | None:
    """A tracker, and another one when asked again."""
    if subject.build() is subject.build():
        raise Fault("`build` gave the same tracker twice: let it make a new one, since each tracks a run of its own.")
    return None


def check_start(subject: TrackerSubject) -> str | None:
    """It begins."""
    _ = subject.started
    return None


def check_log(subject: TrackerSubject) -> str | None:
    """It takes figures."""
    _ = subject.logged
    return None


def check_picture(subject: TrackerSubject) -> str | None:
    """It takes a picture."""
    _ = subject.pictured
    return None


def check_close(subject: TrackerSubject) -> str | None:
    """It ends."""
    _ = subject.closed
    return None


def check_second_run(subject: TrackerSubject) -> str | None:
    """The same folder again: after an end, and after a kill, which closes nothing and logs steps again."""
    Trial(subject, subject.closed.run.folder, len(STEPS) + 1).whole()
    killed = Trial(subject, subject.folder("run-02"))
    killed.start()
    killed.log()
    Trial(subject, killed.run.folder, len(STEPS)).whole()
    return None


def check_untouched(subject: TrackerSubject) -> str | None:
    """The recipe, the figures and the picture are what they were."""
    _ = subject.closed
    tracker, folder = subject.build(), subject.folder("run-03")
    given, figures, shown = copy.deepcopy(RECIPE), figures_of(1), picture()
    with calling("start", "a run"):
        tracker.start(TrackedRun(folder, folder.name, given))
    with calling("log", "step 1"):
        tracker.log(1, figures)
    with calling("picture", "a picture of 16x12"):
        tracker.picture(1, "samples", shown)
    with calling("close"):
        tracker.close()
    changed = {
        "`start` changed the recipe": given != RECIPE,
        "`log` changed the figures": figures != figures_of(1),
        "`picture` changed the picture": shown.tobytes() != picture().tobytes() or shown.size != picture().size,
    }
    for what, is_so in changed.items():
        if is_so:
            raise Fault(f"{what} it was given: work on a copy, since other trackers are given the same.")
    return None


def check_files(subject: TrackerSubject) -> str | None:
    """What a run keeps in its folder is whole."""
    folder = subject.closed.run.folder
    for name in OWN_FILES:
        path = folder / name
        if not path.is_file() or path.read_bytes() != name.encode():
            raise Fault(f"it changed or removed {name} of the run: write into a folder of its own name there.")
    return None
