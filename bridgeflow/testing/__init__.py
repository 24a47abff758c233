"""Conformance checks for plugin authors: what the engine takes for granted of a modality, a task, a tracker or a part
of the method, tried out.

Without pytest::

    for outcome in check_modality("edges"):
        print(outcome.status, outcome.check.name, outcome.message)

With pytest, one test a check::

    class TestEdges(ModalityConformance):
        modality = "edges"

`bridgeflow plugins check NAME` runs the same checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridgeflow.testing.modality import check_modality, modality_checks
from bridgeflow.testing.outcome import Check, Outcome
from bridgeflow.testing.parts import check_part, part_checks
from bridgeflow.testing.task import check_task, task_checks
from bridgeflow.testing.tracker import check_tracker, tracker_checks

if TYPE_CHECKING:
    from bridgeflow.testing.conformance import (
        ModalityConformance,
        PartConformance,
        TaskConformance,
        TrackerConformance,
    )

__all__ = [
    "Check",
    "ModalityConformance",
    "Outcome",
    "PartConformance",
    "TaskConformance",
    "TrackerConformance",
    "check_modality",
    "check_part",
    "check_task",
    "check_tracker",
    "modality_checks",
    "part_checks",
    "task_checks",
    "tracker_checks",
]


def __getattr__(name: str) -> Any:
    # The classes to inherit need pytest, which nobody has to have installed for the checks themselves.
    if name in ("ModalityConformance", "TaskConformance", "TrackerConformance", "PartConformance"):
        from bridgeflow.testing import conformance

        return getattr(conformance, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
