"""Help: every command has one, and its examples are command lines that hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

from bridgeflow import __version__, registry
from bridgeflow.cli.main import COMMANDS, cli
from bridgeflow.config import layers, recipe

Call = Callable[..., Any]


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and subcommand with its path."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield (name,), command
        if isinstance(command, click.Group):
            for inner, own in command.commands.items():
                yield (name, inner), own


def parsed(words: list[str]) -> tuple[click.Command, dict[str, Any]]:
    """The command that a line names and the values of its parameters, without running it."""
    group: click.Command = cli
    context = cli.make_context("bridgeflow", list(words))
    while isinstance(group, click.Group):
        name, found, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        group, context = found, found.make_context(name, rest, parent=context)
    return group, context.params


ALL = dict(commands())
LINES = [
    line.strip().partition("bridgeflow ")[2]
    for command in [cli, *ALL.values()]
    for line in f"{command.help or ''}\n{command.epilog or ''}".splitlines()
    if re.match(r"\s*(cat \S+ \| |accelerate launch -m )?bridgeflow \w", line)
]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_of_every_command(bridgeflow: Call, path: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        outcome = bridgeflow(*path, flag)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith(f"Usage: bridgeflow {' '.join(path)} ")
    # A sentence of what it does, and one for each option.
    assert re.search(r"\n\n  [A-Z][^\n]+", outcome.out)
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert parameter.help.endswith((".", "]"))


def test_help_of_the_whole_lists_every_command_with_its_line(bridgeflow: Call) -> None:
    outcome = bridgeflow("--help")
    assert outcome.code == 0
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", outcome.out, re.MULTILINE)


def test_table_of_commands_agrees_with_the_commands() -> None:
    for name in COMMANDS:
        assert ALL[(name,)].name == name


def test_version(bridgeflow: Call) -> None:
    assert bridgeflow("--version").out == f"bridgeflow, version {__version__}\n"


def test_there_are_examples() -> None:
    assert len(LINES) >= 15
    assert {line.split()[0] for line in LINES} >= {"train", "run", "eval", "fit", "data", "inspect"}


@pytest.mark.parametrize("line", LINES)
def test_example_is_a_command_line_that_holds(line: str) -> None:
    command, values = parsed(shlex.split(line))
    if "task" in values and values["task"] != "TASK":
        task = registry.load("task", values["task"])
        if "overrides" in values:
            name = values.get("recipe") or task.default_recipe
            # Behind --compare stand checkpoints, too.
            changes = [own for own in values["overrides"] if "=" in own or not values.get("compare")]
            resolved = recipe.load(name, changes, values["data"])
            assert resolved.task_name == values["task"]
    if command.name == "fit":
        kind = registry.load("modality", values["modality"])
        tree: layers.Tree = dict(kind.fit_options)
        for assignment in values["overrides"]:
            tree = layers.override(tree, assignment)
        assert kind(kind.Options.model_validate(tree)).needs_fit
