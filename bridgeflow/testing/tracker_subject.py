"""A tracker under examination: what comes of it on a run that is made up."""

from __future__ import annotations

import copy
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bridgeflow.config.validation import validated
from bridgeflow.errors import UsageError
from bridgeflow.testing.outcome import Fault, calling, remembered
from bridgeflow.testing.subject import PluginSubject, default_settings
from bridgeflow.tracker import TrackedRun, Tracker, TrackerSettings

RECIPE = {"task": "depth", "training": {"steps": 6, "ema": 0.99, "clip": None}, "network": {"name": "unet"}}
STEPS = (1, 2, 3)
"""Steps that are logged before the made-up run stops."""
OWN_FILES = ("recipe.yaml", "metrics.jsonl", "checkpoints/000003/meta.json", "samples/000003.png")
"""Files of a run, which are none of a tracker's."""


def figures_of(step: int) -> dict[str, float]:
    """What a run logs at a step."""
    return {"train/loss": 1 / step, "val/loss": 1.5 / step, "lr": 1e-3, "pairs_per_second": 100.0}


def picture() -> Image.Image:
    """A small RGB picture."""
    return Image.fromarray(np.arange(16 * 12 * 3, dtype=np.uint8).reshape(12, 16, 3))


class Trial:
    """A run that a tracker logs, in a folder of its own."""

    def __init__(self, subject: TrackerSubject, folder: Path, first_step: int = 1) -> None:
        self.run = TrackedRun(folder, folder.name, copy.deepcopy(RECIPE), first_step)
        self.tracker = subject.build()

    def start(self) -> None:
        """Begins, or goes on."""
        with calling("start", "a run" if not self.run.resumed else "a run that goes on"):
            self.tracker.start(self.run)

    def log(self) -> None:
        """Tells some steps."""
        for step in STEPS:
            with calling("log", f"step {step + self.run.first_step - 1}"):
                self.tracker.log(step + self.run.first_step - 1, figures_of(step))

    def picture(self) -> None:
        """Shows a picture."""
        with calling("picture", "a picture of 16x12"):
            self.tracker.picture(self.run.first_step + len(STEPS) - 1, "samples", picture())

    def close(self) -> None:
        """Ends."""
        with calling("close"):
            self.tracker.close()

    def whole(self) -> None:
        """From the start to the end."""
        for part in (self.start, self.log, self.picture, self.close):
            part()


class TrackerSubject(PluginSubject[TrackerSettings]):
    """A tracker with settings, and what comes of its methods."""

    contract = TrackerSettings
    word = "tracker"

    def __init__(self, tracker: str | type[TrackerSettings], options: Mapping[str, Any] | None = None) -> None:
        super().__init__(tracker)
        self.given_options = dict(options or {})
        self._folder = Path(tempfile.mkdtemp(prefix="bridgeflow-tracker-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        if self.given_options:
            with suppress(Fault):
                _ = self.settings

    @remembered
    def settings(self) -> TrackerSettings:
        """The settings. Raises UsageError where options that were given do not suit."""
        default = default_settings(self.kind)
        assert isinstance(default, TrackerSettings)
        if not self.given_options:
            return default
        mistakes: list[str] = []
        chosen = validated(self.kind, self.given_options, "", mistakes)
        if mistakes:
            raise UsageError(" ".join(mistakes))
        assert isinstance(chosen, TrackerSettings)
        return chosen

    def build(self) -> Tracker:
        """A tracker of the settings."""
        with calling("build"):
            tracker = self.settings.build()
        if not isinstance(tracker, Tracker):
            raise Fault(f"`build` gave a {type(tracker).__name__}: let it give a bridgeflow.tracker.Tracker.")
        return tracker

    def folder(self, name: str) -> Path:
        """The folder of a made-up run, with files that a run has."""
        folder = self._folder / name
        for own in OWN_FILES:
            (folder / own).parent.mkdir(parents=True, exist_ok=True)
            (folder / own).write_bytes(own.encode())
        return folder

    @remembered
    def started(self) -> Trial:
        """A run that it has logged."""
        trial = Trial(self, self.folder("run-01"))
        trial.start()
        return trial

    @remembered
    def logged(self) -> Trial:
        """The same, with figures."""
        self.started.log()
        return self.started

    @remembered
    def pictured(self) -> Trial:
        """The same, with a picture."""
        self.logged.picture()
        return self.logged

    @remembered
    def closed(self) -> Trial:
        """The same, at its end."""
        self.pictured.close()
        return self.pictured
