"""What a person sees while something takes long: on stderr, one line that moves, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from bridgeflow.sentences import printable, printable_lines

QUIET_SECONDS = 10.0
"""Seconds between lines where the output is no terminal."""


FIRST_SECONDS = 2.0
"""Seconds that something may take before a word is said of it."""


def duration(seconds: float) -> str:
    """'0:42', '12:05', '3:10:00'."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


class Progress:
    """Shows how far something is, at what rate, and how long it still takes. Use as a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal and not quiet
        self.quiet = quiet
        self._shown = 0.0
        self._lines = 0
        self._what = ""
        self._started = 0.0
        self._first = 0
        self._open = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def __call__(self, done: int, total: int, what: str, unit: str = "", detail: str = "") -> None:
        """Reports `done` of `total`; may be called as often as one likes."""
        now = time.monotonic()
        if what != self._what or done < self._first:
            self.clear()
            self._what, self._started, self._first = what, now, done
            self._shown = 0.0 if self.live else now - QUIET_SECONDS + FIRST_SECONDS
        elapsed = now - self._started
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        wait = 0.1 if self.live else QUIET_SECONDS
        finished = done >= total and elapsed > 2
        if self.quiet or (now - self._shown < wait and not finished):
            return
        self._shown = now
        left = f"  {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
        pace = f"  {rate:,.0f} {unit}/s" if unit and rate > 0 else ""
        self._line(f"{what}  {done:,}/{total:,}{detail}{pace}{left}")

    @contextmanager
    def doing(self, what: str, after: float = FIRST_SECONDS) -> Iterator[None]:
        """Says `what` where what happens inside takes more than `after` seconds and shows nothing by itself until then;
        from a thread of its own, since whatever is slow returns only when it is done."""
        before = self._lines

        def say() -> None:
            if self._lines == before:
                self._line(f"{what} ...")

        timer = Timer(after, say)
        timer.daemon = True
        if not self.quiet:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def status(self, text: str) -> None:
        """Shows a line that the next one replaces; where the output is no terminal, one line now and then."""
        now = time.monotonic()
        if self.quiet or (not self.live and now - self._shown < QUIET_SECONDS):
            return
        self._shown = now
        self._line(text)

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        self.clear()
        self._lines += 1
        if not self.quiet:
            self.console.print(escape(printable_lines(text)))

    def warn(self, text: str) -> None:
        """Writes a warning that stays, quiet or not."""
        self.clear()
        self._lines += 1
        self.console.print(f"[yellow]warning:[/yellow] {escape(printable(text))}")

    def clear(self) -> None:
        """Ends the moving line."""
        if self._open:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._open = False

    def _line(self, text: str) -> None:
        self._lines += 1
        if self.live:
            width = self.console.width - 1
            sys.stderr.write("\r\x1b[2K" + printable(text)[:width])
            sys.stderr.flush()
            self._open = True
        else:
            self.console.print(escape(printable_lines(text)))
