"""loss.png: how the losses and the source of a run have gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bridgeflow.training.metrics import HEALTH, TERMS

PANELS = {
    "loss": (*(f"train/{name}" for name in TERMS), "val/loss"),
    "source": tuple(f"source/{name}" for name in HEALTH),
}
"""What is drawn side by side, where it was measured."""

Points = list[tuple[float, float]]


def curves(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Points]]:
    """(step, value) of each figure that lines of metrics.jsonl have, by panel and name."""
    found: dict[str, dict[str, Points]] = {}
    for panel, names in PANELS.items():
        points = {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}
        found[panel] = {name: own for name, own in points.items() if own}
    return found


def draw(rows: Sequence[Mapping[str, float]], path: Path) -> bool:
    """Draws them into a file; whether there was enough for that. Raises OSError as any writing does."""
    if sum("train/loss" in row for row in rows) < 2:
        return False
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    # Margins, places of titles and labels without mathtext: finding a layout for them takes as long as the drawing.
    figure = Figure(figsize=(9, 3.4))
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.15, top=0.91, wspace=0.14)
    for place, (panel, drawn) in enumerate(curves(rows).items()):
        axes = figure.add_subplot(1, len(PANELS), place + 1)
        for name, points in drawn.items():
            # What is measured seldom is seen by its dots.
            marker = "o" if name.startswith("val/") else ""
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2, marker=marker, markersize=3)
        axes.set_xlabel("step")
        axes.set_title(panel, y=1.01)
        axes.grid(alpha=0.3)
        axes.legend()
        if panel == "loss" and any(value > 0 for points in drawn.values() for _, value in points):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(
                FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
            )
    figure.savefig(path, dpi=110)
    return True
