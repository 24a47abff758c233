"""`bridgeflow plugins check`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from bridgeflow.cli.options import json_option
from bridgeflow.cli.output import emit

if TYPE_CHECKING:
    from bridgeflow.registry import Plugin
    from bridgeflow.testing import Outcome

PARTS = ("path", "coupling", "objective", "guidance", "solver", "source_encoder", "encoding_loss", "optimizer")
"""Kinds that are parts of the method."""
KINDS = ("modality", "task", "tracker", *PARTS)


@click.command(
    epilog="Examples:\n\n\b\n  bridgeflow plugins check edges\n  bridgeflow plugins check text codec.name=autoencoder\n"
    "  bridgeflow plugins check heun --kind solver\n  bridgeflow plugins check tensorboard"
)
@click.argument("name")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--kind", type=click.Choice(KINDS), help="Kind, where several plugins share the name.")
@click.option("--traceback", is_flag=True, help="Show where an error behind a fault came from.")
@json_option
def check(name: str, options: tuple[str, ...], kind: str | None, traceback: bool, as_json: bool) -> int:
    """Try out what the engine takes for granted of a modality, a task, a tracker or a part of the method.

    Every check is named; a modality, task or tracker waives one in its `waived`, with a reason. KEY=VALUE sets options,
    but of a task, which is checked with its default recipe.
    The exit code is 1 where a check failed.
    """
    found = _matching(name, kind, options)
    _check_survived(found)
    failed = False
    facts: list[dict[str, Any]] = []
    for number, plugin in enumerate(found):
        outcomes: list[Outcome] = []
        coming = _examined(plugin, options)
        if not as_json:
            emit(f"{'' if number == 0 else chr(10)}{plugin.kind} {plugin.name} of {_origin(plugin)}")
        for outcome in coming:
            outcomes.append(outcome)
            if not as_json and _reached(outcome):
                _show(outcome, traceback)
        failed = failed or any(outcome.status == "failed" for outcome in outcomes)
        facts.append(_fact(plugin, outcomes, traceback))
        if not as_json:
            emit(_summary(outcomes))
    if as_json:
        emit(json.dumps(facts, indent=1, ensure_ascii=False))
    return 1 if failed else 0


def _matching(name: str, kind: str | None, options: Sequence[str]) -> list[Plugin]:
    """The plugins of that name. Raises UsageError where there are none, or options for a task are given."""
    from bridgeflow import registry
    from bridgeflow.errors import UsageError

    kinds = KINDS if kind is None else (kind,)
    wanted = name.rpartition(":")[2]
    known = {plugin.kind for plugin in registry.installed() if plugin.name == wanted}
    if not known & set(kinds):
        others = sorted(known - set(KINDS))
        if others and kind is None:
            raise UsageError(
                f"{name!r} is a {others[0]}, which has no checks: name a modality, a task, a tracker or a part of the "
                "method."
            )
        names = {plugin.name for own in kinds for plugin in registry.installed(own)}
        raise registry.unknown(kind or "modality, task or tracker", name, names)
    found = [registry.find(own, name) for own in kinds if own in known]
    if options:
        found = [plugin for plugin in found if plugin.kind != "task"]
        if not found:
            raise UsageError(f"{name!r} is a task, which is checked with its default recipe: leave {options[0]!r} out.")
    return found


def _check_survived(plugins: Sequence[Plugin]) -> None:
    """Raises BridgeflowError for a plugin that ends the process that imports it: it cannot report itself."""
    from bridgeflow.errors import BridgeflowError
    from bridgeflow.registry import probe
    from bridgeflow.testing.fresh import end_of_import

    for plugin in plugins:
        end = "" if probe.is_own(plugin) else end_of_import(plugin)
        if end:
            raise BridgeflowError(probe.ended(plugin, end))


def _examined(plugin: Plugin, options: Sequence[str]) -> Iterator[Outcome]:
    from bridgeflow.config import layers
    from bridgeflow.testing.modality import examine_modality
    from bridgeflow.testing.modality_subject import ModalitySubject
    from bridgeflow.testing.parts import PartSubject, examine_part
    from bridgeflow.testing.task import examine_task
    from bridgeflow.testing.task_subject import TaskSubject
    from bridgeflow.testing.tracker import examine_tracker
    from bridgeflow.testing.tracker_subject import TrackerSubject

    qualified = f"{plugin.distribution}:{plugin.name}"
    if plugin.kind == "task":
        return examine_task(TaskSubject(qualified))
    tree: layers.Tree = {}
    for assignment in options:
        tree = layers.override(tree, assignment)
    if plugin.kind in PARTS:
        return examine_part(PartSubject(plugin.kind, qualified, tree))
    if plugin.kind == "tracker":
        return examine_tracker(TrackerSubject(qualified, tree))
    return examine_modality(ModalitySubject(qualified, tree))


def _origin(plugin: Plugin) -> str:
    return f"{plugin.distribution} {plugin.version}"


def _show(outcome: Outcome, traceback: bool) -> None:
    """One line, and the sentence of what is not as it should be below it."""
    note = f"  ({outcome.message})" if outcome.status == "passed" and outcome.message else ""
    emit(f"  {outcome.status:<6}  {outcome.check.name}{note}")
    if outcome.status != "passed":
        emit(textwrap.fill(outcome.message, 100, initial_indent=" " * 10, subsequent_indent=" " * 10))
    if traceback and outcome.trace:
        emit(textwrap.indent(outcome.trace.rstrip(), " " * 10))


def _reached(outcome: Outcome) -> bool:
    from bridgeflow.testing.outcome import reached

    return reached(outcome)


def _summary(outcomes: Sequence[Outcome]) -> str:
    names = [outcome.status if _reached(outcome) else "not reached" for outcome in outcomes]
    counts = {name: names.count(name) for name in ("passed", "failed", "waived", "not reached")}
    return f"{len(outcomes)} checks: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _fact(plugin: Plugin, outcomes: Sequence[Outcome], traceback: bool) -> dict[str, Any]:
    checks = [
        {
            "check": outcome.check.name,
            "about": outcome.check.about,
            "status": outcome.status,
            "message": outcome.message,
            **({"traceback": outcome.trace} if traceback and outcome.trace else {}),
        }
        for outcome in outcomes
    ]
    return {"kind": plugin.kind, "name": plugin.name, "distribution": _origin(plugin), "checks": checks}
