"""What a run writes down: metrics.jsonl, TensorBoard, the curve of the loss."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridgeflow.runtime import durable


class Board:
    """A file for TensorBoard, written at once: what a killed run told is there, and an error is raised where it
    happens, which torch's SummaryWriter leaves to a thread."""

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab", buffering=0)
        self._event: Any = Event
        self._write(file_version="brain.Event:2")
        # Steps from here on that an earlier start has told are forgotten.
        self._write(step=first, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **content: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        RecordWriter(self._file).write(self._event(wall_time=time.time(), **content).SerializeToString())

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        """Writes the figures of a step."""
        from torch.utils.tensorboard.summary import scalar

        for name, value in figures.items():
            self._write(step=step, summary=scalar(name, value))

    def picture(self, step: int, name: str, picture: Any) -> None:
        """Writes a PIL picture."""
        import numpy as np
        from torch.utils.tensorboard.summary import image

        self._write(step=step, summary=image(name, np.asarray(picture), dataformats="HWC"))

    def close(self) -> None:
        """Ends the file."""
        self._file.close()


class Journal:
    """The figures of a run, appended as they come.

    Where they cannot be written (a full disk), `warn` is called with one sentence, and lines wait in memory until
    there is space.
    """

    def __init__(self, folder: Path, resumed_at: int, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        self.warn = warn
        self._told = False
        self._waiting = b""
        if self.path.is_file():
            self._forget_after(resumed_at)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._board: Board | None = None
        try:
            self._board = Board(folder / "tensorboard", resumed_at + 1)
        except OSError as error:
            self._tell(folder / "tensorboard", error)

    def _forget_after(self, step: int) -> None:
        """Leaves the whole lines up to a step: a killed process may have left half a line."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        kept = [line for line in text.splitlines() if _step_of(line) <= step]
        durable.write_whole(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Appends one line and hands the same figures to TensorBoard."""
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        self._waiting += (json.dumps({"step": step, **rounded}) + "\n").encode()
        self._append()
        self._to_board(lambda board: board.scalars(step, figures))

    def _append(self) -> None:
        try:
            while self._waiting:
                written = os.write(self._file, self._waiting)
                self._waiting = self._waiting[written:]
        except OSError as error:
            self._tell(self.path, error)

    def _to_board(self, action: Callable[[Board], None]) -> None:
        if self._board is None:
            return
        try:
            action(self._board)
        except OSError as error:
            # What follows half a record cannot be read.
            self._board = None
            self._tell(self.folder / "tensorboard", error)

    def _tell(self, place: Path, error: OSError) -> None:
        if not self._told:
            self._told = True
            self.warn(f"the figures cannot be written to {str(place)!r} ({error.strerror or error}); training goes on.")

    def picture(self, step: int, name: str, image: Any) -> None:
        """Hands a PIL picture to TensorBoard."""
        self._to_board(lambda board: board.picture(step, name, image))

    def close(self) -> None:
        """Ends both files."""
        self._append()
        os.close(self._file)
        self._to_board(lambda board: board.close())

    def curve(self) -> Path | None:
        """Draws loss.png from metrics.jsonl: each term of the loss, and the source's health."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if _step_of(line) < NO_STEP]
        rows = [row for row in rows if "loss" in row]
        if len(rows) < 2:
            return None
        from matplotlib.figure import Figure

        groups = [
            [name for name in ("loss", "flow", "encoding", "kl") if any(name in row for row in rows)],
            [name for name in ("z0_std", "sigma", "mu_batch_std") if any(name in row for row in rows)],
        ]
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        for place, names in enumerate(groups):
            axes = figure.add_subplot(1, 2, place + 1)
            for name in names:
                points = [(row["step"], row[name]) for row in rows if name in row]
                axes.plot([point[0] for point in points], [point[1] for point in points], label=name, linewidth=1.2)
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
            axes.legend()
        if any(row[name] > 0 for row in rows for name in groups[0] if name in row):
            figure.axes[0].set_yscale("log")
        figure.axes[0].set_title("loss")
        figure.axes[1].set_title("source")
        path = self.folder / "loss.png"
        try:
            figure.savefig(path, dpi=110)
        except OSError as error:
            self._tell(path, error)
            return None
        return path


NO_STEP = 1 << 62
"""The step of half a line: later than any."""


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return NO_STEP
