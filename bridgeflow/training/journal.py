"""What a run writes down: metrics.jsonl, TensorBoard, the curve of the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """The figures of a run, appended as they come."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        if self.path.is_file():
            self._forget_after(resumed_at)
        self._file = self.path.open("a", encoding="utf-8")
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at + 1 if resumed_at else None)

    def _forget_after(self, step: int) -> None:
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Appends one line and hands the same figures to TensorBoard."""
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        self._file.write(json.dumps({"step": step, **rounded}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Any) -> None:
        """Hands a PIL picture to TensorBoard."""
        import numpy as np

        self._board.add_image(name, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        """Ends both files."""
        self._file.close()
        self._board.close()

    def curve(self) -> Path | None:
        """Draws loss.png from metrics.jsonl: each term of the loss, and the source's health."""
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
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
        figure.axes[0].set_yscale("log")
        figure.axes[0].set_title("loss")
        figure.axes[1].set_title("source")
        path = self.folder / "loss.png"
        figure.savefig(path, dpi=110)
        return path


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62
