"""METEOR by the Java program that pycocoevalcap carries, which stays open between questions."""

from __future__ import annotations

import atexit
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

SECONDS = 600.0
"""How long the program may take for one corpus."""
IDLE = 60.0
"""How long the program stays open for the next question: an evaluation asks about its results and its baseline."""


class Meteor:
    """The program, running. It reads 60 MB of paraphrases when it starts, which takes ten times as long as it then
    takes to score a thousand captions; `asked` starts it once for any number of questions.

    Nothing is left of it after IDLE seconds without a question, nor after this process: a program whose input is
    closed ends.
    """

    _running: ClassVar[Meteor | None] = None
    _closing: ClassVar[threading.Timer | None] = None
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, java: str, folder: Path) -> None:
        self.owner = os.getpid()
        jar = next(folder.glob("meteor-*.jar"))
        self.command = [java, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
        )

    @classmethod
    def asked(cls, java: str, folder: Path, results: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """METEOR of a corpus, in [0, 1]: a result each, and one or several references each, cut into words.

        java, folder: the interpreter, and where the program lies. Raises OSError or subprocess.SubprocessError where
        the program fails or takes longer than SECONDS, and ValueError where it says what is no number.
        """
        with cls._lock:
            if cls._closing is not None:
                cls._closing.cancel()
            running = cls._running
            if running is None or not running._answers(java):
                cls.close()
                running = cls._running = cls(java, folder)
            try:
                found = running._score(results, references)
            except BaseException:
                # What it still has to say would be taken for the answer to the next question.
                cls.close()
                raise
            cls._closing = threading.Timer(IDLE, cls.close)
            cls._closing.daemon = True
            cls._closing.start()
            return found

    @classmethod
    def close(cls) -> None:
        """Ends the program, where it runs."""
        with cls._lock:
            running, cls._running = cls._running, None
            if cls._closing is not None:
                cls._closing.cancel()
                cls._closing = None
        # A copy of the process that started the program, as workers that load data are, leaves it alone.
        if running is not None and running.owner == os.getpid():
            running.process.kill()
            running.process.communicate()

    def _answers(self, java: str) -> bool:
        """Whether it is this process's, of that interpreter, and runs."""
        return self.owner == os.getpid() and self.command[0] == java and self.process.poll() is None

    def _score(self, results: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.process.kill()

        watch = threading.Timer(SECONDS, give_up)
        watch.daemon = True
        watch.start()
        try:
            counts = [
                self._ask(" ||| ".join(["SCORE", *own, result.replace("|||", "")]))
                for result, own in zip(results, references, strict=True)
            ]
            # The score of a corpus follows from the counts of its examples, and comes after the scores of each.
            told = [self._ask(" ||| ".join(["EVAL", *counts])), *(self._answer() for _ in counts)]
            return float(told[-1])
        except (OSError, subprocess.SubprocessError) as error:
            if late.is_set():
                raise subprocess.TimeoutExpired(self.command, SECONDS) from error
            raise
        finally:
            watch.cancel()

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            raise subprocess.CalledProcessError(self.process.wait(), self.command)
        return line.strip()


atexit.register(Meteor.close)
