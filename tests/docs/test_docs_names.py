"""Every name in README and docs is there: commands and options, keys of recipes with their values, plugins, files."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import yaml
from docs_reader import EVERY_PAGE, ROOT, prose, spans
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

import bridgeflow
from bridgeflow import registry
from bridgeflow.cli.caching import CacheGroup
from bridgeflow.cli.main import cli
from bridgeflow.config.keys import RecipeKeys
from bridgeflow.flow.guidance import IndicatorGuidanceSettings
from bridgeflow.study.settings import ArmSettings, ScoringSettings
from tests.bench import SECTIONS

SPANS = [(page.name, span) for page in EVERY_PAGE for span in dict.fromkeys(spans(prose(page)))]
EXAMPLES = [
    tomllib.loads(file.read_text(encoding="utf-8"))["project"]["entry-points"]
    for file in (ROOT / "docs" / "examples").glob("*/pyproject.toml")
]
TASKS = {*bridgeflow.tasks, "colorize", *(name for points in EXAMPLES for name in points.get("bridgeflow.tasks", {}))}
"""Those that are installed, and those that the tutorials and examples make."""


def commands(command: click.Command = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """The words of every command, with its options; those of the whole program belong to each."""
    options = {"-h", "--help", "--debug", "--version"}
    # `cache` is a group that is a command, too.
    params = [*command.params, *(command.itself.params if isinstance(command, CacheGroup) else ())]
    yield words, options.union(*({*own.opts, *own.secondary_opts} for own in params))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*words, name))


COMMANDS = dict(commands())


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """(page, words after `bridgeflow`) of the command lines inside the sentences of a page."""
    for page, span in SPANS:
        try:
            words = shlex.split(span)
        except ValueError:
            continue
        if "bridgeflow" in words[:5]:
            yield page, words[words.index("bridgeflow") + 1 :]
        elif len(words) > 1 and ((words[0],) in COMMANDS or tuple(words[:2]) in COMMANDS):
            yield page, words


LINES = list(command_lines())


def test_commands_in_sentences_have_their_options_tasks_and_recipes() -> None:
    assert len(LINES) >= 40
    for page, words in LINES:
        if words[:1] == ["COMMAND"]:
            continue
        name = max((own for own in COMMANDS if tuple(words[: len(own)]) == own), key=len)
        assert name or not words or words[0].startswith("-"), f"{page}: no command {words}"
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert options <= COMMANDS[name], f"{page}: bridgeflow {' '.join(words)}"
        for option, known in (("--task", TASKS), ("--recipe", {*bridgeflow.recipes})):
            given = words[words.index(option) + 1] if option in words else ""
            assert given in known or not re.match("[a-z]", given) or given.endswith(".yaml"), f"{page}: {words}"


def test_options_in_sentences_are_those_of_a_command() -> None:
    every = set().union(*COMMANDS.values())
    other = {"-e"} | {f"--only {name}" for name in ("NAME", *SECTIONS)}
    found = [(page, span) for page, span in SPANS if re.match(r"--?[a-z]", span)]
    assert len(found) >= 30
    for page, span in found:
        own = {word for word in span.split() if re.match(r"--?[a-z]", word)}
        assert own <= every or span in other, f"{page}: {span}"


Fields = list[FieldInfo]


COMPONENTS = {kind: registry.base_of(kind) for kind in registry.BASES if kind not in ("modality", "task")}
"""The base classes of the settings that a plugin's name chooses."""


def models(annotation: Any) -> list[type[BaseModel]]:
    """The settings that a field may hold, whichever of them is chosen by its name."""
    kind = next((kind for kind, base in COMPONENTS.items() if annotation is base), None)
    if kind is not None:
        return [registry.loaded(plugin) for plugin in registry.installed(kind)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for own in get_args(annotation) for model in models(own)]


MODALITIES = [own.Options for own in bridgeflow.modalities.values()]
SECTIONS_OF_PLUGINS: dict[str, list[type[BaseModel]]] = {
    "source": MODALITIES,
    "target": MODALITIES,
    "options": [own.Options for own in bridgeflow.tasks.values()],
    "data": [*bridgeflow.datasets.values()],
    "network": [*bridgeflow.networks.values()],
    # What is written without the section that it stands in: a codec's own keys as `fit` takes them, parts of a study.
    "codec": [
        model
        for own in MODALITIES
        if "codec" in own.model_fields
        for model in models(own.model_fields["codec"].annotation)
    ],
    "guidance": [IndicatorGuidanceSettings],
    "scoring": [ScoringSettings],
}
NAMED = {"data": bridgeflow.datasets, "network": bridgeflow.networks}


def fields(path: str) -> Fields:
    """What a key of a recipe may be, one for each plugin or choice that has it; nothing where none has."""
    # The options of a condition, whatever its name, are those of a modality.
    path = re.sub(r"^source\.conditions\.\w+\.", "source.", path)
    first, *rest = path.split(".")
    whole = [model.model_fields[first] for model in (RecipeKeys, ArmSettings) if first in model.model_fields]
    level = SECTIONS_OF_PLUGINS.get(first) or [model for own in whole for model in models(own.annotation)]
    found = whole
    for name in rest:
        found = [model.model_fields[name] for model in level if name in model.model_fields]
        level = [model for own in found for model in models(own.annotation)]
    return found


def is_value(path: str, value: Any) -> bool:
    """Whether a key may have that value. A choice is given by its name, as an override of `....name` has it."""
    section, _, last = path.partition(".")
    if section in NAMED and last == "name":
        return value in NAMED[section]
    if section in SECTIONS_OF_PLUGINS and not last:
        return isinstance(value, dict) and all(is_value(f"{path}.{key}", own) for key, own in value.items())
    for field in fields(path):
        try:
            TypeAdapter(field.annotation).validate_python(value)
        except ValidationError:
            continue
        return True
    return False


KEY = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)+)")
ROOTS = {*RecipeKeys.model_fields, *SECTIONS_OF_PLUGINS}
FILE = re.compile(r"\.(?:py|yaml|yml|json|jsonl|md|png|gif|npy|pfm|exr|txt|pth|safetensors)$")


def keys() -> Iterator[tuple[str, str, str | None]]:
    """(page, key, value or None) of every key of a recipe that a sentence names."""
    roots = "|".join(sorted(ROOTS | {"weak_step"}, key=len, reverse=True))
    pair = re.compile(rf"((?:{roots})(?:\.[a-z_0-9]+)*)(?:=|: )(\S.*)")
    for page, span in SPANS:
        if KEY.fullmatch(span) and span.partition(".")[0] in ROOTS and not FILE.search(span):
            yield page, span, None
        for word in [span] if ": " in span else span.split(" "):
            told = pair.fullmatch(word.strip("'"))
            if told and "..." not in told[2] and not told[1].startswith("codecs."):
                yield page, told[1], told[2]


NAMED_KEYS = list(keys())


def test_keys_in_sentences_exist_and_take_the_values_beside_them() -> None:
    assert len({key for _, key, _ in NAMED_KEYS}) >= 50
    assert sum(value is not None for *_, value in NAMED_KEYS) >= 25
    for page, key, value in NAMED_KEYS:
        is_name = key in {"data.name", "network.name", "codecs.source", "codecs.target"}
        assert is_name or fields(key), f"{page}: no key {key}"
        if value is not None and not re.fullmatch(r"[A-Z]+", value):
            assert is_value(key, yaml.safe_load(value)), f"{page}: {key} cannot be {value}"


@pytest.mark.parametrize("key", ["training.stepz", "network.chanels", "source_encoder.sigm", "kl", "time.nothing"])
def test_what_is_no_key_is_recognised(key: str) -> None:
    assert bool(fields(key)) == (key == "kl")
    assert not is_value("kl.form", "other")
    assert not is_value("codec", "pca")
    assert is_value("network", {"name": "dit", "patch": 4})


def test_recipes_in_sentences_are_installed() -> None:
    name = re.compile(rf"(?:{'|'.join(bridgeflow.tasks)})/[\w-]+")
    found = [(page, span) for page, span in SPANS if name.fullmatch(span)]
    assert len(found) >= 20
    for page, span in found:
        assert span in bridgeflow.recipes, f"{page}: {span}"


def test_files_in_sentences_are_in_the_tree() -> None:
    tops = re.compile(r"(?:bridgeflow|plugins|tasks|recipes|docs|tests)/[\w./-]*")
    # The tutorials are about files of their own, which the reader makes.
    found = [(page, span) for page, span in SPANS if tops.fullmatch(span) and not page.startswith("write-a-")]
    assert len(found) >= 20
    for page, span in found:
        assert (ROOT / span).exists(), f"{page}: {span}"
    architecture = prose(ROOT / "docs" / "architecture.md")
    for span in spans("\n".join(re.findall(r"^\| (`[^|]*) \|", architecture.partition("## ")[0], re.MULTILINE))):
        assert (ROOT / span).exists() or (ROOT / "bridgeflow" / span).exists(), span


def test_modules_targets_variables_and_python_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, span in SPANS:
        if span.startswith("make "):
            assert set(span.split()[1:]) <= targets, f"{page}: {span}"
        module = re.match(r"python -m ([\w.]+)", span)
        if module:
            assert importlib.util.find_spec(module[1]), f"{page}: {span}"
        if re.fullmatch(r"bridgeflow(?:\.\w+)+", span) and span not in registry.GROUPS.values():
            assert pkgutil.resolve_name(span), f"{page}: {span}"
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "bridgeflow").rglob("*.py"))
    told = {name for page in EVERY_PAGE for name in re.findall(r"BRIDGEFLOW_[A-Z_]+", page.read_text(encoding="utf-8"))}
    assert told == set(re.findall(r"BRIDGEFLOW_[A-Z_]+", source))


LINKING = [ROOT / "README.md", *(ROOT / "docs" / "examples").glob("*/README.md")]
"""Pages that the site, which checks its own, does not hold."""


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.parent.name)
def test_links_of_readmes_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        if not re.match(r"https?:", link):
            assert (page.parent / place).exists(), link
        if anchor and not re.match(r"https?:", link):
            headings = re.findall(r"^#+ (.*)$", (page.parent / place).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", own).lower().replace(" ", "-") for own in headings}, link
