"""The checks as pytest classes to inherit, one test a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from bridgeflow.modality import Modality
from bridgeflow.settings import Settings
from bridgeflow.task import Task
from bridgeflow.testing import modality as of_modality
from bridgeflow.testing import task as of_task
from bridgeflow.testing import tracker as of_tracker
from bridgeflow.testing.modality_subject import ModalitySubject
from bridgeflow.testing.outcome import Check, Outcome, examine
from bridgeflow.testing.parts import check_part
from bridgeflow.testing.task_subject import TaskSubject
from bridgeflow.testing.tracker_subject import TrackerSubject
from bridgeflow.tracker import TrackerSettings


def _name(entry: tuple[Check, Any]) -> str:
    return entry[0].name


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
    _subject: ClassVar[ModalitySubject | None] = None

    @classmethod
    def teardown_class(cls) -> None:
        """Lets go of what the checks shared."""
        cls._subject = None

    @pytest.mark.parametrize("check", of_modality.TABLE, ids=_name)
    def test_conformance(self, check: tuple[Check, Any]) -> None:
        """One of the checks."""
        cls = type(self)
        if cls._subject is None:
            cls._subject = ModalitySubject(cls.modality, cls.options)
        _conclude(examine(*check, cls._subject))


class TaskConformance:
    """Inherit as `class TestEdgesToImage(TaskConformance)` and set `task`, a registered name or the class itself.

    A waived check is skipped with its reason.
    """

    task: ClassVar[str | type[Task]]
    _subject: ClassVar[TaskSubject | None] = None

    @classmethod
    def teardown_class(cls) -> None:
        """Lets go of what the checks shared."""
        cls._subject = None

    @pytest.mark.parametrize("check", of_task.TABLE, ids=_name)
    def test_conformance(self, check: tuple[Check, Any]) -> None:
        """One of the checks."""
        cls = type(self)
        if cls._subject is None:
            cls._subject = TaskSubject(cls.task)
        _conclude(examine(*check, cls._subject))


class PartConformance:
    """Inherit as `class TestAB3(PartConformance)`; set `kind`, and `part` to a registered name or a settings class."""

    kind: ClassVar[str]
    part: ClassVar[str | type[Settings]]
    options: ClassVar[Mapping[str, Any]] = {}
    """Laid over the defaults of the settings."""

    def test_conformance(self) -> None:
        """All checks of the kind."""
        failed = [own for own in check_part(self.kind, self.part, self.options) if own.status == "failed"]
        if failed:
            pytest.fail("\n".join(f"{own.check.name}: {own.message}" for own in failed), pytrace=False)


class TrackerConformance:
    """Inherit as `class TestBoard(TrackerConformance)` and set `tracker`, a registered name or the class of its
    settings.

    A waived check is skipped with its reason.
    """

    tracker: ClassVar[str | type[TrackerSettings]]
    options: ClassVar[Mapping[str, Any]] = {}
    """Laid over the defaults of the settings."""
    _subject: ClassVar[TrackerSubject | None] = None

    @classmethod
    def teardown_class(cls) -> None:
        """Lets go of what the checks shared."""
        cls._subject = None

    @pytest.mark.parametrize("check", of_tracker.TABLE, ids=_name)
    def test_conformance(self, check: tuple[Check, Any]) -> None:
        """One of the checks."""
        cls = type(self)
        if cls._subject is None:
            cls._subject = TrackerSubject(cls.tracker, cls.options)
        _conclude(examine(*check, cls._subject))
