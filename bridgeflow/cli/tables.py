"""Figures as a table on stdout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bridgeflow.cli.output import emit


def print_report(report: Any) -> None:
    """A line for each metric, with how sure it is, the baseline and the ceiling beside it."""
    names = list(report.figures)
    if not names:
        return
    width = max(len(name) for name in names)
    intervals = report.intervals()
    heading = f"{'metric':<{width}}  {'result':>10}" + (f"  {'95 %':>9}" if intervals else "")
    beside = [(report.baseline_name, report.baseline), (report.ceiling_name, report.ceiling)]
    beside = [(name, figures) for name, figures in beside if name]
    heading += "".join(f"  {name:>22}" for name, _ in beside)
    emit(f"{report.count} {report.kind}, {report.evaluations} network evaluations each")
    emit(heading)
    for name in names:
        line = f"{name:<{width}}  {report.figures[name]:>10.4f}"
        if intervals:
            low, high = intervals.get(name, (math.nan, math.nan))
            line += (
                f"  ±{max(high - report.figures[name], report.figures[name] - low):>8.4f}"
                if math.isfinite(low)
                else " " * 11
            )
        line += "".join(f"  {figures[name]:>22.4f}" if name in figures else " " * 24 for _, figures in beside)
        emit(line.rstrip())
    for note in report.notes:
        emit(f"note: {note}")
    if report.calibration is not None:
        print_calibration(report.calibration)


def print_calibration(found: Any) -> None:
    """A line for each tenth of the places by stated spread, with the mean error there, and what they amount to."""
    emit("places by stated spread, a tenth each")
    emit(f"{'':<10}{'spread':>12}{'error':>12}")
    for place, (spread, error) in enumerate(zip(found.spread, found.error, strict=True), 1):
        emit(f"{place:<10}{spread:>12.5f}{error:>12.5f}")
    emit(f"the error {'rises' if found.rises else 'does not rise'} with the stated spread over all tenths")
    emit(f"AUSE {found.ause:.4f} (0 for the order of the errors themselves, {found.by_chance:.4f} for none)")


def print_comparison(reports: Sequence[Any], names: Sequence[str]) -> None:
    """A line for each metric: the first checkpoint's figure, then the others' with their difference to it."""
    first = reports[0]
    width = max(len(name) for name in first.figures)
    columns = [max(len(name), 10 if place == 0 else 28) for place, name in enumerate(names)]
    emit(f"{first.count} {first.kind}; network evaluations each: {', '.join(str(r.evaluations) for r in reports)}")
    emit("  ".join([" " * width, *(f"{name:>{column}}" for name, column in zip(names, columns, strict=True))]))
    for metric, value in first.figures.items():
        line = f"{metric:<{width}}  {value:>{columns[0]}.4f}"
        for report, column in zip(reports[1:], columns[1:], strict=True):
            own = report.figures.get(metric, math.nan)
            text = f"{own:.4f}"
            if metric in first.scores.figures and metric in report.scores.figures:
                difference, half = report.scores.difference(first.scores, metric)
                text += f"  {difference:+.4f} ±{half:.4f}"
            line += f"  {text:>{column}}"
        emit(line)
    emit("differences are to the first, with the 95 % interval of pairs of examples.")
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        emit(f"note: {note}")
