"""The modalities that a recipe's task uses, with their options; and any plugin that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridgeflow import registry
from bridgeflow.conditioned import ConditionedOptions, fault_of_name
from bridgeflow.config import layers
from bridgeflow.config.validation import validated
from bridgeflow.errors import BridgeflowError
from bridgeflow.task import ModalityUse, Task


def modality_uses(task: type[Task]) -> dict[str, ModalityUse]:
    """What a task says of every modality, each by the key of its section in a recipe."""
    conditions = {f"source.conditions.{name}": use for name, use in task.conditions.items()}
    return {"source": task.source, **conditions, "target": task.target}


def task_modalities(
    task: type[Task], tree: Mapping[str, Any], mistakes: list[str], known: dict[tuple[str, str], str]
) -> dict[str, Any]:
    """Classes and options of the modalities of a task, by the fields of `Recipe`."""
    home = registry.find("task", tree["task"], known["task", tree["task"]]).distribution
    source = dict(mapping_at(tree, "source"))
    given = {"source": source, "target": mapping_at(tree, "target")}
    given |= _condition_sections(task, source, mistakes)
    kinds: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for place, use in modality_uses(task).items():
        known.setdefault(("modality", use.name), home)
        kinds[place] = named_plugin("modality", use.name, mistakes, known)
        if kinds[place] is not None:
            own = layers.merge(use.options, given.get(place, {}))
            options[place] = validated(kinds[place].Options, own, place, mistakes)
    *some, last = map(repr, kinds)
    for key in mapping_at(tree, "codecs"):
        if key not in kinds:
            mistakes.append(f"codecs.{key}: should be {', '.join(some)} or {last}, not {key!r}.")
    conditions = {name: kinds[f"source.conditions.{name}"] for name in task.conditions}
    source_options = options.get("source")
    if conditions and not mistakes:
        own_options = {name: options[f"source.conditions.{name}"] for name in conditions}
        source_options = ConditionedOptions(start=source_options, conditions=own_options)
    return {
        "source_class": kinds["source"],
        "source": source_options,
        "target_class": kinds["target"],
        "target": options.get("target"),
        "conditions": conditions,
    }


def _condition_sections(task: type[Task], source: dict[str, Any], mistakes: list[str]) -> dict[str, Any]:
    """What a recipe says of each condition of a task, by the key of its section; taken out of the section `source`."""
    if not task.conditions:
        return {}
    for name in task.conditions:
        fault = fault_of_name(name)
        if fault is not None:
            mistakes.append(f"the task cannot have a condition {name!r}: {fault}.")
    given = source.pop("conditions", {})
    if not isinstance(given, Mapping):
        mistakes.append(f"source.conditions: should be a mapping of keys to values, not {given!r}.")
        return {}
    found: dict[str, Any] = {}
    for name, own in given.items():
        place = f"source.conditions.{name}"
        if name not in task.conditions:
            mistakes.append(f"{place}: the task has no such condition; {', '.join(task.conditions)} is expected.")
        elif not isinstance(own, Mapping):
            mistakes.append(f"{place}: should be a mapping of keys to values, not {own!r}.")
        else:
            found[place] = own
    return found


def mapping_at(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The section of a tree at a key; empty where there is none, or no mapping."""
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def named_plugin(kind: str, name: Any, mistakes: list[str], homes: dict[tuple[str, str], str]) -> Any:
    """What the plugin of a name is; `homes` is told whose it is. On failure None, with a sentence in `mistakes`."""
    if not isinstance(name, str):
        mistakes.append(
            f"{kind}: no name is given; one of {', '.join(p.name for p in registry.installed(kind))} is expected."
        )
        return None
    try:
        plugin = registry.find(kind, name, homes.get((kind, name), ""))
        homes[kind, name] = plugin.distribution
        return registry.loaded(plugin)
    except BridgeflowError as error:
        mistakes.append(str(error))
        return None
