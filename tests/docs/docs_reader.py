"""What the tests of the documentation share: a reader's files, and how a training is made short."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from bridgeflow.cli.main import cli

ROOT = Path(__file__).parents[2]
TUTORIALS = ("write-a-modality.md", "write-a-task.md")
"""Followed from beginning to end by tests of their own."""
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in TUTORIALS)]

TINY = [
    "training.steps=2",
    "training.batch_size=4",
    "training.precision=fp32",
    "training.evaluate=0",
    "training.validation=4",
    "training.samples=2",
]
SMALL_UNET = ["network.channels=[8,16,32]", "network.blocks=1"]
TINY_TASK = {
    "depth": SMALL_UNET,
    "recolour": SMALL_UNET,
    "superres": SMALL_UNET,
    "caption": ["target.codec.steps=2", "target.codec.width=32"],
    "t2i": ["target.codec.steps=2", "network.channels=[16]", "network.blocks=1", "source_encoder.depth=1"],
}
# A model of pictures from words alone, which pages run backwards.
WORDS = [
    "--recipe",
    "t2i/blocks-words",
    "-o",
    "runs/words-0",
    "target.codec.steps=2",
    "network.width=32",
    "network.heads=4",
    "network.depth=1",
    "network.reading_depth=1",
]
SCENES = ["data.size=64", "data.held_out=16", "data.workers=1"]


def write_files(folder: Path) -> None:
    """photos/ with words, scans/ with depth, and the files that pages name one by one."""
    rng = np.random.default_rng(0)
    for name in ("photos", "scans/image", "scans/depth"):
        (folder / name).mkdir(parents=True)
    lines = []
    for number in range(6):
        picture = Image.fromarray(rng.integers(256, size=(144, 160, 3), dtype=np.uint8))
        picture.save(folder / f"photos/p{number}.png")
        picture.save(folder / f"scans/image/p{number}.png")
        depth = rng.integers(500, 5000, size=(144, 160), dtype=np.uint16)
        Image.fromarray(depth).save(folder / f"scans/depth/p{number}.png")
        words = "a red cube" if number % 2 else "a blue sphere"
        lines.append(json.dumps({"file_name": f"p{number}.png", "text": words, "description": words}))
    (folder / "photos/metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    picture.resize((40, 36)).save(folder / "photo.jpg")
    picture.resize((16, 16)).save(folder / "small.png")
    picture.resize((64, 64)).save(folder / "scene.png")
    (folder / "prompts.txt").write_text("a red cube\na blue sphere\n", encoding="utf-8")


def parsed(words: list[str]) -> dict[str, Any]:
    """The parameters of a command of bridgeflow; raises click's error where they are not understood."""
    command: click.Command = cli
    context = cli.make_context("bridgeflow", list(words))
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, words
        command, context = found, found.make_context(name, rest, parent=context)
    return context.params


EVERY_PAGE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$|<!--.*?-->", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its blocks of code and its comments."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def spans(text: str) -> list[str]:
    """What stands in backquotes in a text, each in one line, in the order of the text."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def table(page: Path, first: str) -> list[list[str]]:
    """The rows, cell by cell, of the table on a page whose first column is headed so; fails where there is none."""
    lines = prose(page).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |".replace("|  |", "| |")))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip()[1:-1].split("|")])
    return rows
