"""The layers of a recipe: YAML files that extend one another, then overrides from the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bridgeflow import registry
from bridgeflow.data.files import is_regular
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.registry import naming

Tree = dict[str, Any]

LONGEST = 1 << 18
"""Most characters of a recipe, which has a few thousand: YAML of megabytes would be read for minutes."""
DEEPEST = 32
"""Most keys above a value."""
MOST_VALUES = 100_000
"""Most values in a recipe, its aliases written out: a few lines of aliases can stand for billions."""

_KEPT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
"""Scalars that PyYAML (YAML 1.1) reads as YAML 1.2 does."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: 3e-4 and 010 are decimal numbers; no, on, 1:30 and 2020-01-01 are words.

    Keys of a mapping are unique, as YAML 1.2 demands.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node. Raises ComposerError where it lies too deep, before Python's own limit does."""
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > DEEPEST:
            place = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"values lie more than {DEEPEST} deep", place)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """The document. Raises ComposerError where its aliases make it too large or endless."""
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > MOST_VALUES:
            raise yaml.composer.ComposerError(
                None, None, f"with its aliases written out it has more than {MOST_VALUES:,} values", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping. Raises ConstructorError where a key stands twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """010 is ten, 0o17 is fifteen, 0x1f is 31."""
        digits = self.construct_scalar(node)
        return int(digits, {"0o": 8, "0x": 16}.get(digits[:2], 10))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+|[-+]?(?:[0-9]*\.[0-9]+|[0-9]+\.)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Values in a node with every alias written out; infinite where it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inside = node.value
        elif isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in inside)
    return known[id(node)]


def parse(text: str, where: str) -> Any:
    """The value of a YAML text. Raises UsageError, naming `where` and the line, when it is not plain YAML."""
    if len(text) > LONGEST:
        raise UsageError(f"{where} has {len(text):,} characters, more than the {LONGEST:,} that a recipe may have.")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{where}{line} is not valid YAML: {problem}.") from error
    # Explicit tags (`!!timestamp junk`) make PyYAML's constructors fail in many ways.
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{where} holds a value that YAML cannot read ({type(error).__name__}: {error}).") from error


class _Dumper(yaml.SafeDumper):
    """Quotes every word that YAML 1.1 or 1.2 would take for something else."""


for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])


def dump(tree: Mapping[str, Any]) -> str:
    """The tree as YAML that `parse` takes back unchanged."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


_FORMER: dict[tuple[str, ...], str] = {
    ("sampling", "solver"): "method",
    ("sampling", "guidance"): "kind",
    ("encoding",): "kind",
}
"""Sections whose plugin was said by another key before all were said by `name`."""
_CONTRASTS = {"intra", "cross"}
_ONLY_OF: dict[tuple[str, ...], set[str]] = {
    ("sampling", "solver", "tolerance"): {"dopri5"},
    ("encoding", "temperature"): _CONTRASTS,
    ("encoding", "logit_scale"): _CONTRASTS,
    ("encoding", "tower"): {*_CONTRASTS, "reconstruction"},
}
"""Keys that every plugin of a section had then, and those that have them now."""
_SHARED: dict[tuple[str, ...], set[str]] = {
    ("sampling", "solver"): {"steps"},
    ("sampling", "guidance"): {"scale", "interval"},
    ("encoding",): {"weight"},
}
"""Keys that every plugin of a section has, and that stay where another one is chosen."""


def current(tree: Mapping[str, Any]) -> Tree:
    """The tree with the keys that recipes have now, for one that was written before."""
    return _current(tree, ())


def _current(tree: Mapping[str, Any], place: tuple[str, ...]) -> Tree:
    inside = {former[len(place)] for former in _FORMER if former[: len(place)] == place and len(former) > len(place)}
    made = {
        key: _current(value, (*place, key)) if key in inside and isinstance(value, Mapping) else value
        for key, value in tree.items()
    }
    former = _FORMER.get(place)
    if former is None or former not in made:
        return made
    name = made[former]
    kept = {key: value for key, value in made.items() if key not in (former, "name")}
    return {"name": name} | {key: value for key, value in kept.items() if name in _ONLY_OF.get((*place, key), {name})}


def merge(base: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """`above` laid over `base`. Where a component's `name` changes, what was set for the old one is dropped, but for
    what all of its kind have."""
    return _laid_over(current(base), current(above), ())


def _laid_over(base: Mapping[str, Any], above: Mapping[str, Any], place: tuple[str, ...]) -> Tree:
    merged = dict(base)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if "name" in value and value["name"] != old.get("name", value["name"]):
                shared = _SHARED.get((*place, key), set())
                old = {name: own for name, own in old.items() if name in shared}
            merged[key] = _laid_over(old, value, (*place, key))
        else:
            merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


def override(tree: Tree, assignment: str) -> Tree:
    """The tree with one `key.path=value` laid over it; the value is read as YAML."""
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys) or len(keys) > DEEPEST:
        raise UsageError(f"override {assignment!r} is not of the form key.path=value, such as training.steps=500.")
    value: Any = parse(text, f"the value of {path!r}") if text.strip() else ""
    for key in reversed(keys):
        value = {key: value}
    return merge(tree, value)


def recipe_names(task: str | None = None) -> list[str]:
    """Names of the installed recipes, those of one task or all."""
    names = dict.fromkeys(name for name, _, _ in registry.recipe_files())
    return [name for name in names if task is None or name.startswith(f"{task}/")]


def _locate(name: str, beside: Path, home: str | None) -> tuple[Path, str, str | None]:
    """(file, what to call it, its distribution) of an installed name, or of a path taken from the folder `beside`.

    Where several distributions offer the name, that of `home` is meant.
    """
    if name.endswith((".yaml", ".yml")):
        file = beside / name
        if not is_regular(file):
            raise UsageError(
                f"no recipe file {str(file)!r}: give a path to a YAML file or a name from 'bridgeflow recipes list'."
            )
        return file, str(file), home
    wanted, _, plain = name.rpartition(":")
    files = registry.recipe_files()
    matching = [(file, p) for own, file, p in files if own == plain and (not wanted or registry.is_from(p, wanted))]
    if not matching:
        raise registry.unknown("recipe", name, {own for own, _, _ in files})
    if len(matching) > 1:
        at_home = [(file, p) for file, p in matching if p.distribution == home]
        if len(at_home) != 1:
            offered = " and ".join(f"{p.distribution} {p.version}" for _, p in matching)
            first = matching[0][1].distribution
            raise UsageError(f"the recipe {name!r} is offered by {offered}: say which, as '{first}:{name}'.")
        matching = at_home
    return matching[0][0], name, matching[0][1].distribution


def read(name: str) -> Tree:
    """The tree of a recipe by installed name or file, with the recipes it extends laid under it.

    What stands behind `extends` is a path from the folder of the file that names it, or an installed name.
    """
    trees: list[Tree] = []
    seen: dict[Path, str] = {}
    following: str | None = name
    beside, home = Path(), None
    while following is not None:
        file, label, home = _locate(following, beside, home)
        place = file.resolve()
        if place in seen:
            raise UsageError(f"recipe {name!r} extends itself: {' -> '.join([*seen.values(), label])}.")
        seen[place], beside = label, file.parent
        own = home
        tree = naming.qualified(_tree(file, label), lambda kind, name, own=own: own)  # type: ignore[misc]
        following = tree.pop("extends", None)
        if following is not None and not isinstance(following, str):
            raise UsageError(f"recipe {label!r}: extends names one recipe, such as depth/blocks, not {following!r}.")
        trees.append(tree)
    merged: Tree = {}
    for tree in reversed(trees):
        merged = merge(merged, tree)
    return merged


def _tree(file: Path, label: str) -> Tree:
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise BridgeflowError(f"recipe file {str(file)!r} cannot be read ({error}): it must be UTF-8 text.") from error
    if len(text) > LONGEST:
        raise UsageError(f"recipe file {str(file)!r} has more than {LONGEST:,} characters: it is no recipe.")
    tree = parse(text, f"recipe {label!r}")
    if not isinstance(tree, dict):
        raise UsageError(f"recipe {label!r} is not a mapping of keys to values, such as task: depth.")
    return tree
