"""What a check is, what comes of it, and how a fault becomes one sentence."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from bridgeflow.errors import BridgeflowError


@dataclass(frozen=True)
class Check:
    """One thing that the engine takes for granted of a plugin."""

    name: str
    """Plain words, by which it is waived."""
    about: str
    """What has to hold, as a sentence."""


@dataclass(frozen=True)
class Outcome:
    """What came of a check."""

    check: Check
    status: Literal["passed", "failed", "waived"]
    message: str = ""
    """failed: the fault and its fix in one sentence. waived: the reason. passed: a note, or empty."""
    trace: str = field(default="", repr=False)
    """The traceback behind a fault, where an error was met."""


class Fault(BridgeflowError):
    """What a check found wrong: one sentence that names the fault and the fix."""


class Subject(Protocol):
    """What is checked, with whatever the checks have worked out about it so far."""

    reported: dict[str, str]
    """The check that reported a fault first, by the fault's sentence."""

    @property
    def waived(self) -> Mapping[str, str]:
        """The plugin's waivers; empty where it cannot be loaded."""
        ...


S = TypeVar("S")
T = TypeVar("T")
SubjectT = TypeVar("SubjectT", bound=Subject)
Table = Sequence[tuple[Check, Callable[[SubjectT], str | None]]]
"""Checks with what tries them: a note where it passes, a Fault where it fails."""


class remembered(Generic[S, T]):
    """A property that is worked out once; a fault met on the way is met again, the very same one."""

    def __init__(self, work: Callable[[S], T]) -> None:
        self.work = work
        self.__doc__ = work.__doc__

    def __get__(self, subject: S, owner: type[S]) -> T:
        kept: dict[str, Any] = subject.__dict__.setdefault("_remembered", {})
        name = self.work.__name__
        if name not in kept:
            try:
                kept[name] = self.work(subject)
            except Fault as fault:
                kept[name] = fault
        if isinstance(kept[name], Fault):
            raise kept[name]
        value: T = kept[name]
        return value


def described(error: BaseException) -> str:
    """'KeyError: 'pixels'', on one line and not too long; a BridgeflowError by its sentence alone."""
    text = " ".join(str(error).split()).rstrip(".")
    text = text if len(text) <= 300 else f"{text[:300]}..."
    if isinstance(error, BridgeflowError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def calling(method: str, of: str = "") -> Iterator[None]:
    """Turns whatever a plugin's method raises into a fault that names it. `of`: what it was called with."""
    try:
        yield
    except Fault:
        raise
    except (Exception, SystemExit) as error:
        place = f" on {of}" if of else ""
        raise Fault(f"`{method}` failed{place} ({described(error)}): fix `{method}`.") from error


def examine(check: Check, tried: Callable[[SubjectT], str | None], subject: SubjectT) -> Outcome:
    """The outcome of one check. Nothing that a plugin raises gets out of here but KeyboardInterrupt."""
    reason = subject.waived.get(check.name)
    if reason and check.name != "waivers":
        return Outcome(check, "waived", str(reason))
    try:
        return Outcome(check, "passed", tried(subject) or "")
    except Fault as fault:
        first = subject.reported.setdefault(str(fault), check.name)
        if first != check.name:
            return Outcome(check, "failed", f"not reached, since the check {first!r} fails: fix that first.")
        return Outcome(check, "failed", str(fault), _trace(fault.__cause__) if fault.__cause__ else "")
    except (Exception, SystemExit) as error:
        sentence = f"it stopped with {described(error)} in `{_place(error)}`: fix that, or see --traceback."
        return Outcome(check, "failed", sentence, _trace(error))


def reached(outcome: Outcome) -> bool:
    """False for a check that was not tried, because one that it needs had failed."""
    return not outcome.message.startswith("not reached, ")


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _place(error: BaseException) -> str:
    """The function that raised, the last one that is not of these checks or of an installed library."""
    own = Path(__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames if own not in Path(frame.filename).parents]
    near = [frame for frame in foreign if "torch" not in Path(frame.filename).parts] or foreign or list(frames)
    return near[-1].name if near else "the check"
