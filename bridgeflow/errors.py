"""What a user did that cannot work, said in one sentence.

A message names the thing, what was expected and how to fix it. The command line prints it without a
traceback and exits with `exit_code`; a program that uses the library catches `BridgeflowError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from bridgeflow.sentences import bounded, tidy


class BridgeflowError(Exception):
    """Something failed for a reason the user can fix: a file, a value, a plugin. Its message is safe to show whatever
    it quotes, and of bounded length; see `bridgeflow.sentences`."""

    exit_code = 1

    def __init__(self, *details: object) -> None:
        super().__init__(*(tidy(detail) if isinstance(detail, str) else detail for detail in details))


class PluginWarning(UserWarning):
    """A plugin does something besides that its author should fix, in one sentence."""


class UsageError(BridgeflowError):
    """What was asked for does not exist or does not fit: a name, an option, a key."""

    exit_code = 2


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not there, with the nearest one that is."""
    names = sorted(known)
    name = bounded(name, 100)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names) if names else "none"
    return UsageError(f"no {kind} {name!r}.{hint} Installed: {listed}.")
