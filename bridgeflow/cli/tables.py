"""Figures as a table on stdout."""

from __future__ import annotations

from typing import Any


def print_report(report: Any) -> None:
    """A line for each metric, with the baseline beside it."""
    names = list(report.figures)
    if not names:
        return
    width = max(len(name) for name in names)
    heading = f"{'metric':<{width}}  {'result':>10}"
    if report.baseline_name:
        heading += f"  {report.baseline_name:>22}"
    print(f"{report.count} held-out examples, {report.evaluations} network evaluations each")
    print(heading)
    for name in names:
        line = f"{name:<{width}}  {report.figures[name]:>10.4f}"
        if name in report.baseline:
            line += f"  {report.baseline[name]:>22.4f}"
        print(line)
