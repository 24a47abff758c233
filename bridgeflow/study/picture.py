"""The figure of a study: what each arm reaches by the number of evaluations."""

from __future__ import annotations

import math
from pathlib import Path

from bridgeflow.study.report import Findings

COLOURS = 10
"""Colours of matplotlib's cycle."""
STROKES = ("-", "--", ":", "-.")


def save_picture(findings: Findings, path: Path) -> None:
    """Writes the figure: a line for each arm, with the range of its seeds. The names stand beside it in the order of
    the last points, and where there are more arms than colours the strokes differ too. Raises OSError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    steps = findings.study.scoring.steps
    scored = [(name, runs) for name, runs in findings.runs.items() if runs]
    figure = Figure(figsize=(9, max(5.0, 1 + 0.19 * len(scored))), layout="constrained")
    axes = figure.add_subplot()
    lines = []
    for number, (name, runs) in enumerate(scored):
        values = [[findings.figure(run, own) for run in runs] for own in steps]
        means = [sum(own) / len(own) for own in values]
        stroke = STROKES[number // COLOURS % len(STROKES)]
        (line,) = axes.plot(
            steps, means, stroke, color=f"C{number % COLOURS}", marker="o", markersize=4, lw=1.5, label=name
        )
        lines.append((means[-1] if math.isfinite(means[-1]) else -math.inf, line))
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
    ranked = [line for _, line in sorted(lines, key=lambda own: own[0], reverse=True)]
    axes.legend(handles=ranked, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3)
    figure.savefig(path, dpi=110)
