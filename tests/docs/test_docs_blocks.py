"""Every block of code in README and docs does what it is said to do.

Commands and Python run on stand-ins (`docs_reader`), with trainings made short; recipes are resolved. The only way out
is a comment above a block, `<!-- not run: REASON -->`: its commands are then parsed, and their recipes resolved.
"""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from docs_reader import PAGES, SCENES, TINY, TINY_TASK, parsed
from PIL import Image

import bridgeflow
from bridgeflow.cli.main import invoke
from bridgeflow.config import layers
from bridgeflow.config import recipe as recipes
from bridgeflow.data.folder import Folder
from bridgeflow.study.settings import read_study

pytestmark = pytest.mark.slow

FENCE = re.compile(r"(?:<!-- not run:(.*?)-->\n)?^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TOLD = re.compile(
    r"^ *(?:\$ )?(?:bridgeflow (?:train|run|eval|tune-sampler|fit|cache|data|import|plugins|recipes)|pip|make|git) ",
    re.MULTILINE,
)
"""A line that looks like a command."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    reason: str | None
    """Why it is not run; None for one that is."""


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, from its beginning to its end."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    marked = page.read_text(encoding="utf-8").count("<!-- not run:")
    assert marked == sum(bool(reason) for reason, _, _ in found), f"{page}: a mark that stands above no block"
    return [Block(page, language, text, reason.strip() or None) for reason, language, text in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands(block: Block) -> list[str]:
    """The commands of a shell block, each in one string; a quote or a backslash carries one over the end of a line."""
    whole: list[str] = []
    begun = ""
    for line in block.text.splitlines():
        begun = f"{begun}\n{line}" if begun else line
        if begun.endswith("\\"):
            begun = begun.removesuffix("\\").rstrip()
            continue
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:
            continue
        if words:
            whole.append(re.sub(r"\s+# .*$", "", begun))
        begun = ""
    assert not begun, f"{block.page}: {begun}"
    return whole


def own_words(command: str) -> list[str]:
    """What follows `bridgeflow` in a command, also in `accelerate launch ... -m bridgeflow`; empty without it."""
    words = shlex.split(command, comments=True)
    return words[words.index("bridgeflow") + 1 :] if "bridgeflow" in words else []


SHELL = [block for block in BLOCKS if block.language == "bash"]
RUN = {command: block.page for block in SHELL if block.reason is None for command in commands(block)}
PARSED = {command: block.page for block in SHELL if block.reason for command in commands(block) if own_words(command)}


def test_blocks_are_of_known_languages_and_commands_in_blocks_that_are_run() -> None:
    assert {block.language for block in BLOCKS} <= {"bash", "python", "yaml", "toml", "json", "text"}
    for block in BLOCKS:
        if block.language in ("text", "json", "yaml", "toml"):
            assert not TOLD.search(block.text), f"{block.page}: {block.text}"
    for page in PAGES:
        between = FENCE.sub("", page.read_text(encoding="utf-8"))
        assert "```" not in between, page
        assert not re.search(r"^    +(?:\$ )?(?:bridgeflow|pip|make|git|import) ", between, re.MULTILINE), page


def test_few_blocks_are_not_run_and_each_has_a_reason() -> None:
    reasons = [block.reason for block in BLOCKS if block.reason is not None]
    assert all(len(reason.split()) >= 4 for reason in reasons), reasons
    assert {block.language for block in BLOCKS if block.reason} == {"bash"}
    assert len(reasons) <= 12
    assert len(RUN) >= 50
    assert {own_words(command)[0] for command in RUN} >= {"train", "run", "eval", "fit", "data", "plugins", "recipes"}


@pytest.fixture
def here(reader: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(reader / "cache"))
    monkeypatch.chdir(reader)
    return reader


def shortened(words: list[str]) -> list[str]:
    """The words of a command, with what makes a training, a fitting or an evaluation short."""
    parameters = parsed(words)
    if words[0] == "fit":
        return [*words, "codec.steps=2", "codec.width=32"]
    if words[0] == "eval" and parameters["count"]:
        return [*words, "--count", "8"]
    if words[0] == "cache" and "task" in parameters:
        return [*words, *(override for override in TINY_TASK[parameters["task"]] if ".codec." in override)]
    recipe = parameters.get("recipe") or ""
    if words[0] != "train" or recipe.startswith("t2i/crossflow"):
        return words
    if parameters["resume"]:
        return [*words, *TINY]
    # A recipe of the blocks scenes would have all of its tens of thousands drawn.
    scenes = [] if parameters["data"] or recipe.endswith(".yaml") else SCENES
    own = TINY_TASK[parameters["task"]]
    if any(override.startswith("network.name=") for override in parameters["overrides"]):
        own = [override for override in own if not override.startswith("network.")]
    return [*words, *TINY, *scenes, *own]


@pytest.mark.parametrize(("command", "page"), RUN.items(), ids=[f"{page.stem}: {line}" for line, page in RUN.items()])
def test_command(
    command: str, page: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for block in blocks_of(page):
        if block.language == "yaml":
            (here / "my.yaml").write_text(block.text, encoding="utf-8")
    fed = re.fullmatch(r"cat (\S+) \| (.*)", command)
    if fed:
        monkeypatch.setattr("sys.stdin", io.StringIO((here / fed[1]).read_text(encoding="utf-8")))
        command = fed[2]
    words = shlex.split(command, comments=True)
    assert words[0] == "bridgeflow", f"{page}: this test runs bridgeflow alone: mark the block of {command!r}"
    code = invoke(shortened(words[1:]))
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", PARSED)
def test_command_that_is_not_run(command: str, here: Path) -> None:
    words = own_words(command)
    parameters = parsed(words)
    overrides = [value for value in parameters.get("overrides", ()) if not value.startswith("codecs.")]
    if words[0] == "fit":
        options: dict[str, object] = {}
        for each in overrides:
            options = layers.override(options, each)
        assert bridgeflow.modalities[parameters["modality"]].Options.model_validate(
            layers.merge({"codec": {"name": "autoencoder"}}, options)
        )
    if words[0] == "train" and not str(parameters["recipe"]).endswith(".yaml"):
        name = parameters["recipe"] or bridgeflow.tasks[parameters["task"]].default_recipe
        assert recipes.load(name, overrides).task_name == parameters["task"]


def pages_with(language: str) -> list[Path]:
    return list(dict.fromkeys(block.page for block in BLOCKS if block.language == language))


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_python(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a page run one after the other, in one namespace, with trainings made short."""
    train = bridgeflow.train

    def short(recipe: str, **overrides: object) -> object:
        own = [] if "data" in overrides else SCENES
        pairs = [key.split("=", 1) for key in [*TINY, *own, *TINY_TASK[recipe.partition("/")[0]]]]
        given = {key: value for key, value in overrides.items() if key != "training"}
        return train(recipe, **given, **{key: yaml.safe_load(value) for key, value in pairs})

    monkeypatch.setattr(bridgeflow, "train", short)
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        if (block.page, block.language) == (page, "python"):
            exec(compile(block.text, str(page), "exec"), namespace)
    assert namespace.get("bridgeflow", bridgeflow) is bridgeflow


@pytest.mark.parametrize("page", pages_with("yaml"), ids=lambda page: page.name)
def test_recipe(page: Path, tmp_path: Path) -> None:
    for block in BLOCKS:
        if (block.page, block.language) == (page, "yaml"):
            file = tmp_path / "own.yaml"
            file.write_text(block.text, encoding="utf-8")
            if "arms:" in block.text:
                study = read_study(file)
                assert [study.resolved(*run).task_name for run in study.runs()]
            else:
                assert recipes.load(str(file)).task_name == "t2i"


@pytest.mark.parametrize("page", pages_with("json"), ids=lambda page: page.name)
def test_rows_of_metadata(page: Path, tmp_path: Path) -> None:
    for block in BLOCKS:
        if (block.page, block.language) != (page, "json"):
            continue
        row = json.loads(block.text)
        for column in ("file_name", "depth_file_name"):
            (tmp_path / row[column]).parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), 700, np.uint16)).save(tmp_path / row[column])
        (tmp_path / "metadata.jsonl").write_text(block.text, encoding="utf-8")
        rows = Folder(path=str(tmp_path), held_out=0).open("train")
        assert rows[0] == {
            "image": tmp_path / row["file_name"],
            "text": row["text"],
            "depth": tmp_path / "depth/p0.png",
        }
