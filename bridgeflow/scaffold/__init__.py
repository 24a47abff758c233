"""A plugin's distribution from templates: what `bridgeflow plugins new` makes."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridgeflow import registry
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.registry.installation import OWN_DISTRIBUTION, normal

Kind = Literal["modality", "task"]
KINDS: tuple[Kind, ...] = ("modality", "task")

TEMPLATES = Path(__file__).parent / "templates"
ENDING = ".template"
_NAME = re.compile(r"[a-z]([a-z0-9_]*[a-z0-9])?")


@dataclass(frozen=True)
class Scaffold:
    """A distribution that was made: its folder, the task that it trains and its files, relative to the folder."""

    folder: Path
    task: str
    files: tuple[Path, ...]


def scaffold(name: str, kind: Kind = "modality", place: Path = Path()) -> Scaffold:
    """Makes the folder `bridgeflow-NAME` in `place`: a distribution that installs, passes its checks and trains.

    For a modality it holds the modality NAME and the task NAME_to_image, for a task the task NAME between two
    pictures. Raises UsageError where the name is not one or is taken, and BridgeflowError where the folder is there
    already or cannot be written.
    """
    task = f"{name}_to_image" if kind == "modality" else name
    _check_name(name, [("modality", name), ("task", task)] if kind == "modality" else [("task", name)])
    folder = place / f"bridgeflow-{name}"
    if folder.exists():
        raise BridgeflowError(f"{folder} is there already: choose another name, or another place with -o.")
    texts = dict(_templates(kind))
    words = {"name": name, "Class": _class_name(name, texts.values())}
    try:
        for path, text in texts.items():
            file = folder / path.replace("NAME", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_filled(text, words), encoding="utf-8")
    except OSError as error:
        raise BridgeflowError(
            f"{folder} cannot be written ({error.strerror or error}): choose another place."
        ) from error
    return Scaffold(folder, task, tuple(sorted(Path(path.replace("NAME", name)) for path in texts)))


def _check_name(name: str, wanted: list[tuple[str, str]]) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a plugin: small letters, digits and underscores are expected, a letter first, "
            "such as edges."
        )
    if normal(f"bridgeflow-{name}") == OWN_DISTRIBUTION:
        raise UsageError(f"the name {name!r} is taken, for {OWN_DISTRIBUTION} is bridgeflow itself: choose another.")
    for kind, own in wanted:
        for plugin in registry.installed(kind):
            if plugin.name == own:
                raise UsageError(
                    f"the name {name!r} is taken by the {kind} {own!r} of {plugin.distribution} {plugin.version}: "
                    "choose another."
                )
    if importlib.util.find_spec(f"bridgeflow_{name}") is not None:
        raise UsageError(f"the name {name!r} is taken by the installed package bridgeflow_{name}: choose another.")


def _templates(kind: Kind) -> Iterator[tuple[str, str]]:
    """(path in the distribution, text) of every template of a kind."""
    for root in (TEMPLATES / "both", TEMPLATES / kind):
        for file in sorted(root.rglob(f"*{ENDING}")):
            yield file.relative_to(root).as_posix().removesuffix(ENDING), file.read_text(encoding="utf-8")


def _class_name(name: str, texts: Iterable[str]) -> str:
    """The name as a class has it, apart from every other name of the templates: `edge_maps` gives EdgeMaps."""
    words = set(re.findall(r"\w+", " ".join(texts)))
    camel = "".join(part.capitalize() for part in name.split("_"))
    return f"{camel}Plugin" if camel in words or keyword.iskeyword(camel) else camel


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace("{{" + word + "}}", value)
    return text
