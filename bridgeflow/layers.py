"""The layers of a recipe: YAML files that extend one another, then overrides from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bridgeflow import registry
from bridgeflow.errors import BridgeflowError, UsageError, unknown_name

Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: 3e-4 is a number, no and on are words."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)|[0-9]*\.[0-9]+|[0-9]+\.|\.inf|\.nan)$"),
    list("-+0123456789."),
)


def parse(text: str, where: str) -> Any:
    """The value of a YAML text. Raises UsageError, naming `where` and the line, when it is not plain YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{where}{line} is not valid YAML: {problem}.") from error


def merge(base: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """`above` laid over `base`. Where a component's `name` changes, what was set for the old one is dropped."""
    merged = dict(base)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            switched = "name" in value and value["name"] != old.get("name", value["name"])
            merged[key] = dict(value) if switched else merge(old, value)
        else:
            merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


def override(tree: Tree, assignment: str) -> Tree:
    """The tree with one `key.path=value` laid over it; the value is read as YAML."""
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"override {assignment!r} is not of the form key.path=value, such as training.steps=500.")
    value: Any = parse(text, f"the value of {path!r}") if text.strip() else ""
    for key in reversed(keys):
        value = {key: value}
    return merge(tree, value)


def recipe_names(task: str | None = None) -> dict[str, tuple[Path, str]]:
    """Installed recipes as name -> (file, distribution), those of one task or all, by name."""
    found: dict[str, tuple[Path, str]] = {}
    for plugin, folder in registry.recipe_folders():
        for file in sorted(Path(folder).glob("*/**/*.yaml")):
            name = file.relative_to(folder).with_suffix("").as_posix()
            if task is None or name.startswith(f"{task}/"):
                found.setdefault(name, (file, f"{plugin.distribution} {plugin.version}"))
    return dict(sorted(found.items()))


def summary(file: Path) -> str:
    """The first comment of a recipe file, which says in a line what it is for."""
    with file.open(encoding="utf-8") as lines:
        first = lines.readline().strip()
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _locate(name: str) -> tuple[Path, str]:
    file = Path(name)
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise UsageError(f"no recipe file {name!r}: give a path to a YAML file or a name from 'bridgeflow recipes list'.")
        return file, str(file)
    names = recipe_names()
    if name not in names:
        raise unknown_name("recipe", name, names)
    return names[name][0], name


def read(name: str) -> Tree:
    """The tree of a recipe by installed name or file, with the recipes it extends laid under it."""
    trees: list[Tree] = []
    seen: list[str] = []
    following: str | None = name
    while following is not None:
        file, label = _locate(following)
        if label in seen:
            raise UsageError(f"recipe {name!r} extends itself: {' -> '.join([*seen, label])}.")
        seen.append(label)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BridgeflowError(f"recipe file {str(file)!r} cannot be read ({error}): it must be UTF-8 text.") from error
        tree = parse(text, f"recipe {label!r}")
        if not isinstance(tree, dict):
            raise UsageError(f"recipe {label!r} is not a mapping of keys to values.")
        following = tree.pop("extends", None)
        if following is not None and not isinstance(following, str):
            raise UsageError(f"recipe {label!r}: extends names one recipe, such as depth/blocks, not {following!r}.")
        trees.append(tree)
    merged: Tree = {}
    for tree in reversed(trees):
        merged = merge(merged, tree)
    return merged
