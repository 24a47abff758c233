"""Recipes: everything that a training run is made of, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PrivateAttr

from bridgeflow import registry
from bridgeflow.conditioned import ConditionedOptions
from bridgeflow.config import layers
from bridgeflow.config.defaults import with_default_names
from bridgeflow.config.keys import COMPONENTS, SECTIONS, RecipeKeys, SamplingSettings, TrainingSettings
from bridgeflow.config.layers import Tree
from bridgeflow.config.modalities import mapping_at, modality_uses, named_plugin, task_modalities
from bridgeflow.config.trackers import NamedTracker, chosen, written_out
from bridgeflow.config.validation import validated
from bridgeflow.data.rows import DataSettings, Rows, Split, Stream
from bridgeflow.errors import UsageError
from bridgeflow.modality import Modality, Progress
from bridgeflow.nn.velocity import NetworkSettings
from bridgeflow.registry import Plugin
from bridgeflow.registry.naming import Homes
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task


@dataclass(frozen=True)
class Recipe:
    """A recipe with every plugin section checked and typed."""

    name: str
    keys: RecipeKeys
    """The keys that belong to no plugin, checked; those of the flow are what `Bridge` is built from."""
    task: type[Task]
    options: Settings
    source: type[Modality]
    source_options: Settings
    target: type[Modality]
    target_options: Settings
    data: DataSettings
    network: NetworkSettings
    conditions: Mapping[str, type[Modality]]
    """Modalities of the task's conditions, by name; their options are in `source_options`."""
    homes: Homes
    """The distribution that is meant by each name of a plugin."""
    trackers: tuple[NamedTracker, ...] | None = None
    """What `training.trackers` names, typed; None where it was not asked for, as results need no tracker."""

    @property
    def task_name(self) -> str:
        """The task's name, as the recipe writes it."""
        return self.keys.task

    @property
    def data_name(self) -> str:
        """The data set's name, as the recipe writes it."""
        return str(self.keys.data["name"])

    @property
    def network_name(self) -> str:
        """The network's name, as the recipe writes it."""
        return str(self.keys.network["name"])

    @property
    def training(self) -> TrainingSettings:
        """Length and size of the run."""
        return self.keys.training

    @property
    def sampling(self) -> SamplingSettings:
        """Defaults of sampling."""
        return self.keys.sampling

    @property
    def columns(self) -> dict[str, str]:
        """Column that the task needs -> column of the data, where the names differ."""
        return self.keys.columns

    def plugins(self) -> list[Plugin]:
        """Every plugin that it is made of, each once."""
        needed = [
            ("task", self.task_name),
            *(("modality", use.name) for use in self.uses.values()),
            ("dataset", self.data_name),
            ("network", self.network_name),
            *((kind, _at(self.keys, place).name) for place, kind in COMPONENTS.items()),
        ]
        found = [registry.find(kind, name, self.homes.get((kind, name), "")) for kind, name in needed]
        return list(dict.fromkeys(found))

    @property
    def uses(self) -> dict[str, ModalityUse]:
        """What the task says of every modality, each by the key of its section."""
        return modality_uses(self.task)

    @property
    def modality_options(self) -> dict[str, Settings]:
        """The options of every modality, each by the key of its section."""
        source = self.source_options
        if not isinstance(source, ConditionedOptions):
            return {"source": source, "target": self.target_options}
        conditions = {f"source.conditions.{name}": own for name, own in source.conditions.items()}
        return {"source": source.start, **conditions, "target": self.target_options}

    def tree(self) -> Tree:
        """The whole recipe with every default written out; `resolve` takes it back unchanged."""
        tree: Tree = self.keys.model_dump(mode="json")
        tree["options"] = self.options.model_dump(mode="json")
        tree["source"] = self.source_options.model_dump(mode="json")
        tree["target"] = self.target_options.model_dump(mode="json")
        tree["data"] = {"name": self.data_name, **self.data.model_dump(mode="json")}
        tree["network"] = {**self.network.model_dump(mode="json"), "name": self.network_name}
        return tree

    def yaml(self) -> str:
        """`tree` as YAML."""
        return layers.dump(self.tree())

    def changed(self, **sections: Any) -> Recipe:
        """The same recipe with keys laid over it and checked again."""
        return resolve(
            layers.merge(self.tree(), sections), self.name, self.homes, with_trackers=self.trackers is not None
        )


class UnreadData(DataSettings):
    """The section `data` of a recipe whose data are not asked for: its plugin is loaded, and its keys are checked, only
    where it is opened after all."""

    model_config = ConfigDict(extra="allow")

    def __init__(self, name: str, home: str, keys: Mapping[str, Any]) -> None:
        super().__init__(**keys)
        self._name, self._home = name, home

    _name: str = PrivateAttr()
    _home: str = PrivateAttr()

    def open(self, split: Split, progress: Progress | None = None) -> Rows | Stream:
        """As the data set's own. Raises UsageError where it is not installed or a key does not fit."""
        mistakes: list[str] = []
        kind = registry.load("dataset", self._name, self._home)
        settings = validated(kind, self.model_dump(), "data", mistakes)
        if mistakes:
            raise UsageError(mistakes[0])
        rows: Rows | Stream = settings.open(split, progress)
        return rows


def data_section(text: str) -> Tree:
    """The `data` section that `--data NAME` or `--data NAME:LOCATION` means; NAME may be DISTRIBUTION:NAME."""
    name, _, location = text.partition(":")
    inner, _, rest = location.partition(":")
    if len(registry.offering("dataset", name)) != 1 and registry.offering("dataset", f"{name}:{inner}"):
        name, location = f"{name}:{inner}", rest
    if not registry.offering("dataset", name) and text and Path(text).is_dir():
        raise UsageError(f"no dataset {text!r}. For a folder of your own write --data folder:{text}.")
    settings: type[DataSettings] = registry.load("dataset", name)
    try:
        return {"name": name, **(settings.at(location) if location else {})}
    except UsageError as error:
        raise UsageError(f"--data {text!r}: {error}") from error


def load(
    name: str,
    overrides: Sequence[str] = (),
    data: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Recipe:
    """The recipe of an installed name or a YAML file, with overrides laid over it, checked.

    Raises UsageError with every mistake at once.
    """
    tree = layers.read(name)
    if data is not None:
        tree = layers.merge(tree, {"data": data_section(data)})
    if columns:
        tree = layers.merge(tree, {"columns": dict(columns)})
    for assignment in overrides:
        tree = layers.override(tree, assignment)
    return resolve(tree, name)


def resolve(
    tree: Mapping[str, Any],
    name: str,
    homes: Homes | None = None,
    with_data: bool = True,
    with_trackers: bool = True,
) -> Recipe:
    """A checked recipe from a tree of keys.

    homes: the distribution that is meant by names that several offer; a task's modalities are else those of its own.
    with_data: False leaves the section `data` as it is, see `UnreadData`; with_trackers does so with
    `training.trackers`. Raises UsageError with every mistake at once.
    """
    mistakes: list[str] = []
    tree = layers.current(tree)
    known: dict[tuple[str, str], str] = dict(homes or {})
    for section, kind in SECTIONS.items():
        # What a recipe leaves unsaid is said by bridgeflow.
        if "name" not in mapping_at(tree, section):
            known[kind, RecipeKeys.model_fields[section].default["name"]] = registry.OWN_DISTRIBUTION
    tree = with_default_names(tree)
    named = isinstance(tree.get("task"), str)
    # A missing name is reported once, by `named_plugin`, which knows the tasks.
    keys = validated(RecipeKeys, tree if named else {**tree, "task": ""}, "", mistakes)
    task = named_plugin("task", tree.get("task"), mistakes, known)
    sections: dict[str, Any] = {}
    if task is not None:
        sections["options"] = validated(task.Options, mapping_at(tree, "options"), "options", mistakes)
        sections |= task_modalities(task, tree, mistakes, known)
    for section, kind in SECTIONS.items():
        given = mapping_at(tree, section) or RecipeKeys.model_fields[section].default
        own = {key: value for key, value in given.items() if key != "name"}
        if section == "data" and not with_data:
            sections[section] = UnreadData(str(given["name"]), known.get((kind, given["name"]), ""), own)
            continue
        settings = named_plugin(kind, given.get("name"), mistakes, known)
        if settings is not None:
            sections[section] = validated(settings, own, section, mistakes)
    if keys is not None and task is not None:
        for name in keys.conditioning.added:
            if name not in task.conditions:
                has = ", ".join(task.conditions) or "none"
                mistakes.append(f"conditioning.added: {name!r} is no condition of the task, which has {has}.")
    trackers = chosen(keys.training.trackers, mistakes) if keys is not None and with_trackers else None
    if mistakes or keys is None or task is None:
        each = list(dict.fromkeys(mistakes))
        if len(each) == 1:
            raise UsageError(f"recipe {name!r}: {each[0]}")
        raise UsageError(f"recipe {name!r} has {len(each)} mistakes:" + "".join(f"\n  {mistake}" for mistake in each))
    return Recipe(
        name,
        keys if trackers is None else written_out(keys, trackers),
        task,
        sections["options"],
        sections["source_class"],
        sections["source"],
        sections["target_class"],
        sections["target"],
        sections["data"],
        sections["network"],
        sections["conditions"],
        known,
        trackers,
    )


def _at(keys: Any, place: str) -> Any:
    for part in place.split("."):
        keys = getattr(keys, part)
    return keys
