"""The checks as pytest classes to inherit, one test a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from bridgeflow.modality import Modality
from bridgeflow.task import Task
from bridgeflow.testing import modality as of_modality
from bridgeflow.testing import task as of_task
from bridgeflow.testing.outcome import Check, Outcome, examine
from bridgeflow.testing.subject import ModalitySubject
from bridgeflow.testing.task_subject import TaskSubject


def _name(value: Any) -> str:
    return value.name if isinstance(value, Check) else ""


def _conclude(outcome: Outcome) -> None:
    if outcome.status == "waived":
        pytest.skip(f"{outcome.check.name} is waived: {outcome.message}")
    if outcome.status == "failed":
        pytest.fail("\n".join(filter(None, [outcome.message, outcome.trace])), pytrace=False)


class ModalityConformance:
    """Inherit as `class TestEdges(ModalityConformance)` and set `modality`, a registered name or the class itself.

    A waived check is skipped with its reason.
    """

    modality: ClassVar[str | type[Modality]]
    options: ClassVar[Mapping[str, Any]] = {}
    """Laid over the defaults of the modality's options."""

    @pytest.fixture(scope="class")
    def subject(self, request: pytest.FixtureRequest) -> ModalitySubject:
        """What the checks share."""
        return ModalitySubject(request.cls.modality, request.cls.options)

    @pytest.mark.parametrize(("check", "tried"), of_modality.TABLE, ids=_name)
    def test_conformance(self, check: Check, tried: Any, subject: ModalitySubject) -> None:
        """One of the checks."""
        _conclude(examine(check, tried, subject))


class TaskConformance:
    """Inherit as `class TestEdgesToImage(TaskConformance)` and set `task`, a registered name or the class itself.

    A waived check is skipped with its reason.
    """

    task: ClassVar[str | type[Task]]

    @pytest.fixture(scope="class")
    def subject(self, request: pytest.FixtureRequest) -> TaskSubject:
        """What the checks share."""
        return TaskSubject(request.cls.task)

    @pytest.mark.parametrize(("check", "tried"), of_task.TABLE, ids=_name)
    def test_conformance(self, check: Check, tried: Any, subject: TaskSubject) -> None:
        """One of the checks."""
        _conclude(examine(check, tried, subject))
