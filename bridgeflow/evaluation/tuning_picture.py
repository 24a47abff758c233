"""The figure of a search for sampling: quality against cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from bridgeflow.evaluation.trials import Trial, Tuning, described, is_guided

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = (("present", "s", "#444444"), ("best", "^", "#2a7f2a"), ("chosen", "*", "#c22f2f"))


def save_picture(tuning: Tuning, path: Path) -> None:
    """Writes the figure: a line for each solver, grid and guidance with its standard errors, and the present, best
    and chosen settings marked. Raises OSError where it cannot be written."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for label, trials in _lines(tuning).items():
        costs = [trial.cost for trial in trials]
        errors = [error if math.isfinite(error := trial.scores.error(tuning.metric)) else 0.0 for trial in trials]
        axes.errorbar(
            costs, [trial.value for trial in trials], errors, label=label, marker="o", markersize=3, linewidth=1.2,
            elinewidth=0.6, capsize=2,
        )  # fmt: skip
    for name, mark, colour in MARKS:
        _mark(axes, getattr(tuning, name), name, mark, colour)
    axes.set_xscale("log", base=2)
    costs = sorted({trial.cost for trial in tuning.trials})
    axes.xaxis.set_major_locator(FixedLocator([cost for place, cost in enumerate(costs) if _has_room(costs, place)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("rows of the network for a result (an evaluation with guidance has two)")
    axes.set_ylabel(f"{tuning.metric} ({tuning.way} is better)")
    axes.set_title(f"{tuning.examples} held-out examples; chosen: {described(tuning.chosen.sampling)}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _lines(tuning: Tuning) -> dict[str, list[Trial]]:
    """The trials of each solver, grid and guidance by rising cost."""
    lines: dict[str, list[Trial]] = {}
    for trial in sorted(tuning.trials, key=lambda own: own.cost):
        own = trial.sampling
        words: list[str] = [own.solver.name]
        words += [f"guidance {own.guidance.scale:g}"] if is_guided(own) else []
        words += [f"grid {own.grid}"] if own.grid else []
        lines.setdefault(", ".join(words), []).append(trial)
    return lines


def _mark(axes: Axes, trial: Trial, name: str, mark: str, colour: str) -> None:
    size = 16 if mark == "*" else 9
    axes.plot(
        [trial.cost], [trial.value], mark, markersize=size, markerfacecolor="none" if mark != "*" else colour,
        markeredgecolor=colour, markeredgewidth=1.6, label=f"{name}: {described(trial.sampling)}", zorder=5,
    )  # fmt: skip


def _has_room(costs: list[int], place: int) -> bool:
    """Whether a label fits beside the one before it, on a logarithmic axis."""
    return place == 0 or costs[place] / costs[place - 1] > 1.09
