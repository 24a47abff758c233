"""Words of a sum that stand where they stand in a caption: "a large red cube" - "red" + "blue"."""

from __future__ import annotations

from collections.abc import Sequence


class Placed(str):
    """Words that are read within a line, but of which alone something is made: the rest of the line is left out."""

    before: str
    after: str

    def __new__(cls, words: str, before: str = "", after: str = "") -> Placed:
        """before, after: the rest of the line."""
        made = super().__new__(cls, words)
        made.before, made.after = before, after
        return made

    @property
    def line(self) -> str:
        """The whole line."""
        return " ".join(part for part in (self.before, str(self), self.after) if part)


def in_place(line: str, plus: Sequence[str], minus: Sequence[str]) -> tuple[list[str], list[str]]:
    """Terms of a sum at their places: words that are taken away where they stand first in the line, and the k-th that
    are added where the k-th that are taken away were. Terms that are not in the line stay as they are, and so do those
    beside them."""
    words = line.split()
    added, taken = list(plus), list(minus)
    for number, term in enumerate(minus):
        own = term.split()
        starts = [at for at in range(len(words) - len(own) + 1) if words[at : at + len(own)] == own]
        if not starts or len(own) == len(words):
            continue
        before, after = " ".join(words[: starts[0]]), " ".join(words[starts[0] + len(own) :])
        taken[number] = Placed(term, before, after)
        if number < len(added):
            added[number] = Placed(added[number], before, after)
    return added, taken
