"""The tutorials for plugin authors, done word for word: files written, commands run, output compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EDGES = DOCS / "examples" / "bridgeflow-edges"

_FENCE = re.compile(r"^(`{3,})(\w*) *$")
_FILE = re.compile(r"^(?:#|<!--) ([\w./-]+\.\w+)(?: -->)?$")


@dataclass
class Block:
    """A fenced block. expected: the block of `text` right under it, None where there is none."""

    line: int
    language: str
    text: str
    expected: str | None = None


def blocks(page: str) -> list[Block]:
    """The blocks of a page, but for those of `text`."""
    found: list[Block] = []
    opened: tuple[str, Block] | None = None
    beneath = False
    for number, line in enumerate(page.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            if line == opened[0]:
                if opened[1].language != "text":
                    found.append(opened[1])
                elif beneath:
                    found[-1].expected = opened[1].text
                beneath = opened[1].language == "bash"
                opened = None
            else:
                opened[1].text += f"{line}\n"
        elif fence:
            opened = fence[1], Block(number, fence[2], "")
        elif line:
            beneath = False
    assert opened is None, opened
    return found


def one_space(text: str) -> str:
    return "".join(f"{' '.join(line.split())}\n" for line in text.splitlines())


def agrees(printed: str, expected: str) -> bool:
    """Whether a command printed what the page says: `...` stands for anything in a line, or for any lines. How wide
    the columns are does not count, nor what is said of something that takes long, as on a busy machine."""
    pattern = ""
    printed = re.sub(r"^[a-z].* \.\.\.\n", "", printed, flags=re.MULTILINE)
    for line in one_space(expected).splitlines():
        anything = r"(?:.*\n)*" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"\n"
        pattern += anything
    return re.fullmatch(pattern, one_space(printed)) is not None


def follow(page: Path, workshop: Any) -> None:
    """Does what a page says, in order."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "bash":
            printed = workshop.run(block.text)
            if block.expected is not None:
                assert agrees(printed, block.expected), f"{page.name}, line {block.line}:\n{printed}"
            continue
        first, _, rest = block.text.partition("\n")
        named = _FILE.match(first)
        assert named is not None, f"{page.name}, line {block.line}: the first line names no file: {first!r}"
        file = workshop.folder / named[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(rest, encoding="utf-8")


def sources(folder: Path) -> dict[str, str]:
    """What a distribution is made of, without what working in it leaves behind."""
    kept = [*folder.glob("*.toml"), *folder.glob("*.md"), folder / ".gitignore"]
    kept += [path for part in ("src", "tests") for path in (folder / part).rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in kept
        if "__pycache__" not in path.parts
    }


@pytest.mark.timeout(600)
def test_write_a_modality(workshop: Any) -> None:
    follow(DOCS / "write-a-modality.md", workshop)
    made, kept = sources(workshop.folder), sources(EDGES)
    assert made.keys() == kept.keys()
    for name in kept:
        assert made[name] == kept[name], f"{name} of the tutorial is not that of {EDGES}"


@pytest.mark.timeout(600)
def test_write_a_task(workshop: Any) -> None:
    follow(DOCS / "write-a-task.md", workshop)


def test_output_is_compared() -> None:
    assert agrees("a   b\nc\n", "a b\nc")
    assert agrees("a 17 b\nx\ny\nend\n", "a ... b\n...\nend")
    assert not agrees("a 17 b\nx\n", "a ... b")
    assert not agrees("a b\n", "a c")
    assert not agrees("a.b\n", "axb")


def test_blocks_of_a_page_are_found() -> None:
    page = (
        "```bash\nls\n```\n\n```text\nout\n```\n\n"
        "````markdown\n<!-- A.md -->\n```bash\nx\n```\n````\n\n```text\nway\n```\n"
    )
    first, second = blocks(page)
    assert (first.text, first.expected) == ("ls\n", "out\n")
    assert (second.language, second.text) == ("markdown", "<!-- A.md -->\n```bash\nx\n```\n")
    assert second.expected is None
