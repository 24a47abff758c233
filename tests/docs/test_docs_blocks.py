"""Every command and every block of code in README and docs does what it is said to do.

Commands run on stand-ins: pictures made here, and runs of each task trained for a few steps. What takes a checkpoint of
gigabytes or a network of hubs is parsed, and its recipe resolved, instead; `PARSED` says which and why.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from PIL import Image

import bridgeflow
from bridgeflow import recipe as recipes
from bridgeflow.cli.main import cli, invoke

ROOT = Path(__file__).parents[2]
TUTORIALS = {"write-a-modality.md", "write-a-task.md"}
"""Followed from beginning to end by tests of their own."""
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in TUTORIALS)]

PARSED = {
    "import crossflow": "needs a published file of gigabytes",
    "--checkpoint crossflow-256": "needs a published file of gigabytes",
    "--from crossflow-256": "needs a published file of gigabytes",
    "hf:NAME": "needs a data set of the hub",
    "codecs.target=": "needs the codec of the line before, fitted to other words",
    "crossflow-256 ": "is of a size for GPUs",
    "t2i/crossflow": "is of a size for GPUs",
    "caption/coco": "is of a size for GPUs",
    "depth/kitti": "is of a size for GPUs",
    "depth/nyuv2": "is of a size for GPUs",
    "depth/zero-shot": "is of a size for GPUs",
    "superres/imagenet": "is of a size for GPUs",
}
OTHERS = ("make ", "git ", "cd ", "pip ", "source ", "accelerate ", "cat ")
"""Commands of other programs: `make` and `pip` are what runs these tests, and `cat` feeds the one behind the bar."""

TINY = ["training.steps=2", "training.batch_size=4", "training.precision=fp32", "training.evaluate=0"]
TINY_TASK = {
    "depth": [],
    "superres": [],
    "caption": ["target.codec.steps=2", "target.codec.width=32"],
    "t2i": ["network.depth=1", "source_encoder.depth=1"],
}
BLOCKS = ["data.size=64", "data.held_out=8", "data.workers=1"]


def fences(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of a page."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks that call bridgeflow."""
    texts = [text for language, text in fences(page) if language in ("", "bash")]
    lines = [re.sub(r"\s+#.*", "", line).strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if re.match(r"(cat .*\| )?bridgeflow ", line)]


ALL = [pytest.param(page, line, id=f"{page.stem}: {line}") for page in PAGES for line in dict.fromkeys(commands(page))]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that README and docs speak of, and a run of each task."""
    home = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGEFLOW_CACHE", str(home / "cache"))
        patch.chdir(home)
        lines = []
        for folder in ("photos", "scans/image", "scans/depth", "data"):
            Path(folder).mkdir(parents=True)
        for number in range(6):
            picture = Image.fromarray(rng.integers(256, size=(72, 80, 3), dtype=np.uint8))
            picture.save(f"photos/p{number}.png")
            picture.save(f"scans/image/p{number}.png")
            depth = rng.integers(500, 5000, size=(72, 80), dtype=np.uint16)
            Image.fromarray(depth).save(f"scans/depth/p{number}.png")
            words = "a red cube" if number % 2 else "a blue sphere"
            lines.append(json.dumps({"file_name": f"p{number}.png", "text": words, "description": words}))
        Path("photos/metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
        picture.save("photo.jpg")
        picture.resize((16, 16)).save("small.png")
        Path("prompts.txt").write_text("a red cube\na blue sphere\n", encoding="utf-8")
        for page in PAGES:
            for text in (text for language, text in fences(page) if language == "yaml"):
                Path("my.yaml").write_text(text, encoding="utf-8")
        for task in TINY_TASK:
            assert invoke(["train", "--task", task, *TINY, *BLOCKS, *TINY_TASK[task]]) == 0
        yield home


@pytest.fixture
def home(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(stand_ins / "cache"))
    monkeypatch.chdir(stand_ins)
    return stand_ins


def parsed(words: list[str]) -> click.Context:
    """The command that words name, with its arguments read; raises where they are not understood."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command.make_context(command.name, words)


def shortened(words: list[str]) -> list[str]:
    """The command with overrides that make a training short."""
    parameters = parsed(words).params
    if words[0] != "train":
        return words
    task = parameters["task"]
    if parameters.get("resume"):
        return [*words, "training.evaluate=0"]
    data = [] if parameters.get("data") or parameters.get("recipe") == "my.yaml" else BLOCKS
    own = [key for key in TINY_TASK[task] if not any(given.startswith("network.name") for given in words)]
    return [*words, *TINY, *data, *own]


def test_there_is_something_to_try() -> None:
    assert len(ALL) >= 40
    assert all(any(mark in str(line.values[1]) for line in ALL) for mark in ("train", "run", "plugins", "data check"))


@pytest.mark.parametrize(("page", "line"), ALL)
def test_command(page: Path, line: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stdin, _, line = line.rpartition("| ")
    words = shlex.split(line)[1:]
    parameters = parsed(words).params
    if any(mark in f"{line} " for mark in PARSED):
        overrides = [value for value in parameters.get("overrides", ()) if not value.startswith("codecs.")]
        if words[0] == "train":
            recipes.load(parameters.get("recipe") or f"{parameters['task']}/blocks", overrides)
        return
    if stdin:
        text = (home / "prompts.txt").read_text(encoding="utf-8").splitlines()
        words = [*words, *text]
    code = invoke(shortened(words))
    assert code == 0, capsys.readouterr().err


def test_every_reason_not_to_run_is_used() -> None:
    lines = [f"{param.values[1]} " for param in ALL]
    for mark in ("import crossflow", "hf:NAME", "codecs.target="):
        assert any(mark in line for line in lines), mark


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=str)
def test_python(page: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a page run one after the other, in one namespace, with trainings made short."""
    train = bridgeflow.train

    def short(recipe: str, **overrides: object) -> object:
        task = recipe.partition("/")[0]
        pairs = [key.split("=", 1) for key in [*TINY, *BLOCKS, *TINY_TASK[task]]]
        given = {key: value for key, value in overrides.items() if key != "training"}
        return train(recipe, **given, **{key: yaml.safe_load(value) for key, value in pairs})

    monkeypatch.setattr(bridgeflow, "train", short)
    namespace: dict[str, object] = {}
    for language, text in fences(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), namespace)
    assert namespace


@pytest.mark.parametrize("page", [page for page in PAGES if "```yaml" in page.read_text(encoding="utf-8")], ids=str)
def test_recipe(page: Path, tmp_path: Path) -> None:
    for language, text in fences(page):
        if language == "yaml":
            file = tmp_path / "own.yaml"
            file.write_text(text, encoding="utf-8")
            assert recipes.load(str(file)).recipe.task


MESSAGES = {
    "no task 'dept'. Did you mean 'depth'? Installed: caption, depth, superres, t2i.": "train --task dept",
    "recipe 'depth/blocks': no network 'dti'. Did you mean 'dit'? Installed: dimr, dit, unet.": (
        "train --task depth network.name=dti"
    ),
    "no plugin 'edgez'.": "plugins info edgez",
    "recipe 'depth/blocks': training.stepz: unknown key. Did you mean 'steps'?": "train --task depth training.stepz=4",
    "recipe 'depth/blocks': training.batch_size: should be greater than or equal to 1, not 0.": (
        "train --task depth training.batch_size=0"
    ),
    "recipe 'depth/blocks' belongs to task 'depth', not to 't2i'.": "train --task t2i --recipe depth/blocks",
    "no recipe file 'my.yaml': give a path to a YAML file or a name from 'bridgeflow recipes list'.": (
        "train --task t2i --recipe my.yaml"
    ),
    "there is no folder 'nowhere': give one that holds pictures, as folder:PATH.": (
        "train --task depth --data folder:nowhere"
    ),
    "task 'depth' needs a column 'depth' (its depth map: 16-bit PNG, .npy, .pfm or EXR), but 4 rows in photos has "
    "image: add it, or name the one that holds it with --columns depth=NAME.": (
        "train --task depth --data folder:photos"
    ),
    "task 'caption' needs a column 'text' (a caption, or a list of captions of which one is drawn each time), but 4 "
    "rows in photos has image: add it, or name the one that holds it with --columns text=NAME.": (
        "train --task caption --data folder:photos"
    ),
    "there is no run of task 'depth' under 'runs' to resume: start one without --resume.": (
        "train --task depth --resume"
    ),
    "network 'dimr' with these patches needs sizes that are multiples of 2: grid 3x63x63.": (
        "train --task depth network.name=dimr source.size=63 target.size=63 data.size=8 data.held_out=2"
    ),
    "modality 'depth' has nothing to fit with these options: use it as it is.": (
        "fit depth --data folder:photos -o codecs/depth"
    ),
    "there is no checkpoint of task 'caption' under 'runs': train one with bridgeflow train --task caption, or name "
    "one with --checkpoint.": "run --task caption photo.jpg",
    "there is no folder 'nowhere': --checkpoint takes a run or a checkpoint of one.": (
        "run --task depth photos --checkpoint nowhere"
    ),
    "'tiny.png' is damaged or no torch file: download it again, or give another file.": (
        "import crossflow tiny.png -o out"
    ),
}
IN_OTHER_TESTS = (
    "passed over:",
    "the learned source has collapsed in scale",
    "which is not installed: pip install",
    "cannot be loaded",
    "is offered by",
)
"""Messages that take a broken plugin or a long training: other tests assert them."""


def quoted() -> list[str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^> (.*)$", text, re.MULTILINE)


def test_every_quoted_message_is_tried() -> None:
    others = [message for message in quoted() if message not in MESSAGES]
    assert all(message.startswith(IN_OTHER_TESTS) for message in others), others
    assert set(MESSAGES) <= set(quoted())
    assert len(quoted()) >= 15


@pytest.mark.parametrize(("message", "line"), MESSAGES.items())
def test_message(
    message: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path / "cache"))
    Path("photos").mkdir()
    for number in range(5):
        Image.new("RGB", (80, 80), (number, 0, 0)).save(f"photos/p{number}.png")
    Image.new("RGB", (10, 10)).save("tiny.png")
    assert invoke(shlex.split(line)) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    before = os.getcwd()
    os.chdir(ROOT)
    try:
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
        build(config)
    finally:
        os.chdir(before)
    for page in ("index.html", "cli/index.html", "api/index.html", "write-a-modality/index.html"):
        assert (tmp_path / "site" / page).is_file()
    assert "--dry-run" in (tmp_path / "site" / "cli" / "index.html").read_text(encoding="utf-8")
