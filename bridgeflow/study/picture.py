"""The figure of a study: what each arm reaches by the number of evaluations."""

from __future__ import annotations

import math
from pathlib import Path

from bridgeflow.study.report import Findings


def save_picture(findings: Findings, path: Path) -> None:
    """Writes the figure: a line for each arm, with the range of its seeds. Raises OSError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    steps = findings.study.scoring.steps
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, runs in findings.runs.items():
        if not runs:
            continue
        values = [[findings.point(run, own).scores().figures[findings.metric] for run in runs] for own in steps]
        (line,) = axes.plot(steps, [sum(own) / len(own) for own in values], marker="o", markersize=4, label=name)
        if len(runs) > 1 and all(math.isfinite(value) for own in values for value in own):
            axes.fill_between(
                steps, [min(own) for own in values], [max(own) for own in values], alpha=0.15, color=line.get_color()
            )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(steps)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("solver steps")
    axes.set_ylabel(f"{findings.metric} ({findings.way} is better)")
    axes.set_title(findings.study.title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
