"""What a run writes down: metrics.jsonl, the curve of the loss, and what it hands to trackers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridgeflow.runtime import durable
from bridgeflow.training.curve import draw
from bridgeflow.training.metrics import read_metrics, step_of
from bridgeflow.training.trackers import Trackers


class Journal:
    """The figures of a run, appended as they come.

    Where they cannot be written (a full disk), `warn` is called with one sentence, and lines wait in memory until
    there is space.
    """

    def __init__(
        self, folder: Path, resumed_at: int, warn: Callable[[str], None], trackers: Trackers | None = None
    ) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        self.warn = warn
        self.trackers = trackers or Trackers([], warn)
        self._told = False
        self._waiting = b""
        if self.path.is_file():
            self._forget_after(resumed_at)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _forget_after(self, step: int) -> None:
        """Leaves the whole lines up to a step: a killed process may have left half a line."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        kept = [line for line in text.splitlines() if step_of(line) <= step]
        durable.write_whole(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Appends one line and hands the same figures to the trackers."""
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        self._waiting += (json.dumps({"step": step, **rounded}) + "\n").encode()
        self._append()
        self.trackers.log(step, figures)

    def _append(self) -> None:
        try:
            while self._waiting:
                written = os.write(self._file, self._waiting)
                self._waiting = self._waiting[written:]
        except OSError as error:
            self._tell(self.path, error)

    def _tell(self, place: Path, error: OSError) -> None:
        if not self._told:
            self._told = True
            self.warn(f"the figures cannot be written to {str(place)!r} ({error.strerror or error}); training goes on.")

    def picture(self, step: int, name: str, image: Any) -> None:
        """Hands a PIL picture to the trackers."""
        self.trackers.picture(step, name, image)

    def close(self) -> None:
        """Ends the file and what tracks the run."""
        self._append()
        os.close(self._file)
        self.trackers.close()

    def curve(self) -> None:
        """Draws loss.png from metrics.jsonl, of earlier starts, too."""
        path = self.folder / "loss.png"
        try:
            draw(read_metrics(self.path), path)
        except OSError as error:
            self._tell(path, error)
