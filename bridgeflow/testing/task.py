"""The checks of a task, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterator

from bridgeflow.task import Task
from bridgeflow.testing import declarations, pairing, printing
from bridgeflow.testing.outcome import Check, Outcome, Table, examine
from bridgeflow.testing.task_subject import TaskSubject


def _contract(subject: TaskSubject) -> str | None:
    declarations.check_declared(subject.kind)
    return f"version {subject.kind.api_version}"


def _listing(subject: TaskSubject) -> str | None:
    return declarations.check_listing(subject.loaded[1])


def _import(subject: TaskSubject) -> str | None:
    return declarations.check_import(subject.loaded[1])


def _options(subject: TaskSubject) -> str | None:
    return declarations.check_options(subject.settings)


def _waivers(subject: TaskSubject) -> str | None:
    return declarations.check_waivers(subject.kind.waived, (check.name for check in task_checks()))


TABLE: Table[TaskSubject] = (
    (Check("contract", "It loads, is a Task, and is written for this version of the contract."), _contract),
    (Check("waivers", "Every waiver names a check and gives a reason."), _waivers),
    (Check("listing", "Listing the plugins imports neither torch nor the plugin."), _listing),
    (Check("import", "Importing it is quick, prints nothing, and stays in the working folder."), _import),
    (Check("options", "Options have defaults, go through JSON and back, and refuse unknown keys."), _options),
    (Check("modalities", "Source and target are installed and take their options."), pairing.check_modalities),
    (Check("construction", "It keeps its options and both modalities."), pairing.check_construction),
    (Check("rows", "`example` draws rows with every column from the generator given."), pairing.check_rows),
    (Check("pairs", "`pair` gives items that both modalities take, from the columns named."), pairing.check_pairs),
    (Check("split and join", "Pieces of an item are items, and their results join to one."), pairing.check_joining),
    (Check("metrics", "Metrics are finite numbers that distinguish right from wrong."), pairing.check_metrics),
    (Check("baseline", "A baseline has one result for each truth."), pairing.check_baseline),
    (Check("stdout", "Its methods print nothing on stdout, where results go."), printing.check_task),
    (Check("default recipe", "It exists, is for this task, has its columns, and can be built."), pairing.check_recipe),
    (Check("training", "Two steps of a tiny bridge give a finite loss with gradients."), pairing.check_training),
    (Check("pickle", "The task goes through pickle, for data loader workers."), pairing.check_pickle),
)


def task_checks() -> tuple[Check, ...]:
    """The checks of a task, in the order in which they are tried."""
    return tuple(check for check, _ in TABLE)


def examine_task(subject: TaskSubject) -> Iterator[Outcome]:
    """The outcomes, one by one as they come."""
    for check, tried in TABLE:
        yield examine(check, tried, subject)


def check_task(task: str | type[Task]) -> list[Outcome]:
    """What comes of every check of a task: a registered name, or a class.

    Its modalities take the options of its default recipe; an option called `steps` is lowered, since here codecs have
    to run but not to be good. A check that could not be reached says which one failed before it. Raises UsageError
    for a name that is not installed.
    """
    return list(examine_task(TaskSubject(task)))
