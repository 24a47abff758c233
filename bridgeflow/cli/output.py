"""Results on stdout. Whatever else is printed while a command works, as by a plugin, goes to stderr."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

from bridgeflow.runtime.stdout import redirected

_results: TextIO | None = None


def stream() -> TextIO:
    """Where results go."""
    return _results or sys.stdout


def emit(*values: object, end: str = "\n", flush: bool = False) -> None:
    """Prints a result; `print` in a command would go to stderr."""
    print(*values, end=end, flush=flush, file=stream())


def with_stdout_for_results(command: click.Command) -> click.Command:
    """The command, or a group of them, that prints on stdout with `emit` alone once it has begun."""
    if isinstance(command, click.Group):
        for own in command.commands.values():
            with_stdout_for_results(own)
    elif command.callback is not None and not hasattr(command.callback, "prints_results"):
        command.callback = _apart(command.callback)
    return command


def _apart(work: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(work)
    def apart(*arguments: Any, **options: Any) -> Any:
        global _results
        with redirected(sys.stderr) as results:
            before, _results = _results, results
            try:
                return work(*arguments, **options)
            finally:
                _results = before

    apart.prints_results = True  # type: ignore[attr-defined]
    return apart
