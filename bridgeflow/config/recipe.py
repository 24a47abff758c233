"""Recipes: everything that a training run is made of, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SerializeAsAny, model_validator

from bridgeflow import registry
from bridgeflow.bridge import BridgeSettings
from bridgeflow.conditioned import ConditionedOptions, fault_of_name
from bridgeflow.config import layers
from bridgeflow.config.layers import Tree
from bridgeflow.config.optimizers import AdamWSettings, OptimizerSettings
from bridgeflow.config.trackers import NamedTracker, chosen, written_out
from bridgeflow.config.validation import validated
from bridgeflow.data.rows import DataSettings, Rows, Split, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.flow.guidance import GuidanceSettings, NoGuidanceSettings
from bridgeflow.flow.solver import EulerSettings, SolverSettings
from bridgeflow.modality import Modality, Progress
from bridgeflow.nn.velocity import NetworkSettings
from bridgeflow.registry import Plugin
from bridgeflow.registry.component import Component
from bridgeflow.registry.naming import Homes
from bridgeflow.runtime.precision import Precision
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task


class LearningRateSettings(Settings):
    """The learning rate along the run, as a share of its peak."""

    warmup: int = Field(default=50, ge=0)
    """Optimiser steps from 0 to the peak."""
    decay: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up, up to the last step."""
    final: float = Field(default=0.02, ge=0, le=1)
    """Share of the peak at the last step of a cosine."""


class TrainingSettings(Settings):
    """The length, batch size and intervals of a run."""

    steps: int = Field(default=2000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=32, ge=1)
    """Pairs a process takes for one backward pass."""
    accumulation: int = Field(default=1, ge=1)
    """Backward passes summed into an optimiser step."""
    seed: int = Field(default=0, ge=0)
    """Every draw of step n derives from (seed, n)."""
    precision: Precision = "auto"
    """Autocast type; auto measures whether bf16 is faster here and keeps the answer for the run."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient; null leaves it as it is."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the weight average, warmed up as (1 + n) / (10 + n); 0 keeps none. Results come from the average."""
    schedule: LearningRateSettings = LearningRateSettings()
    """Warm-up and decay."""
    log_every: int = Field(default=20, ge=1)
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that stay."""
    sample_every: int = Field(default=500, ge=0)
    """Steps between sample pictures of held-out examples; 0 makes none but the last."""
    samples: int = Field(default=8, ge=1)
    """Held-out examples in a sample picture."""
    validation: int = Field(default=64, ge=0)
    """Held-out pairs on which the weight average's flow loss is measured wherever samples are drawn, as val/loss; 0
    measures none. The checkpoint where it was lowest is kept as checkpoints/best."""
    evaluate: int = Field(default=256, ge=0)
    """Held-out examples that are scored at the end; 0 scores none."""
    trackers: tuple[str | dict[str, Any], ...] = ("tensorboard",)
    """Where figures and pictures go besides the run's folder: names of trackers, or {name: ...} with their settings."""
    workers: int = Field(default=0, ge=0)
    """Processes that read rows ahead; 0 reads in the training process."""
    gradient_checkpointing: bool = False
    """Computes the blocks of network and encoders a second time in the backward pass instead of keeping what they hold:
    less memory, about a third more time, the same gradients."""
    check_memory: bool = True
    """Whether a run is refused that is expected to need more memory than is free; `--dry-run` prints the estimate."""
    compile: bool = False
    """Compiles the velocity network for this machine with torch.compile, which takes a minute or more at the start."""


class SamplingSettings(Settings):
    """Defaults of sampling, kept with the checkpoint."""

    solver: Annotated[SerializeAsAny[SolverSettings], Component("solver", "euler")] = EulerSettings()
    """Method and steps."""
    grid: Literal["uniform", "density"] | None = None
    """The solver's grid of times; that of `time.grid` where none is given."""
    guidance: Annotated[SerializeAsAny[GuidanceSettings], Component("guidance", "none")] = NoGuidanceSettings()
    """None or by the indicator."""
    source: Literal["sample", "mean"] = "sample"
    """Whether a noisy or variational source is drawn or taken at its mean."""
    batch_size: int = Field(default=32, ge=1)
    """Items of a batch."""

    @model_validator(mode="before")
    @classmethod
    def _as_it_is_written_now(cls, values: Any) -> Any:
        # A checkpoint keeps its sampling as it was written then.
        return layers.current({"sampling": values})["sampling"] if isinstance(values, Mapping) else values


class RecipeKeys(BridgeSettings):
    """A recipe's own keys. The sections `source`, `target`, `options`, `data` and `network` belong to plugins
    and are checked against their settings in `resolve`."""

    task: str
    """Name of the task."""
    options: dict[str, Any] = {}
    """Options of the task."""
    source: dict[str, Any] = {}
    """Options of the source modality; those of a task's conditions, by name, under `conditions`."""
    target: dict[str, Any] = {}
    """Options of the target modality."""
    data: dict[str, Any] = {"name": "blocks"}
    """The data set by `name`, with its settings."""
    codecs: dict[str, str] = {}
    """Folders of codecs that `bridgeflow fit` made, by the key of the modality's section: source, target, or
    source.conditions.NAME; a codec without one is fitted when training starts."""
    columns: dict[str, str] = {}
    """Column that the task needs -> column of the data, where the names differ."""
    network: dict[str, Any] = {"name": "dit"}
    """The velocity network by `name`, with its settings."""
    optimizer: Annotated[SerializeAsAny[OptimizerSettings], Component("optimizer", "adamw")] = AdamWSettings()
    """The optimiser."""
    training: TrainingSettings = TrainingSettings()
    """Length, batch size and intervals."""
    sampling: SamplingSettings = SamplingSettings()
    """Defaults of sampling."""


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
    for section, kind in _SECTIONS.items():
        # What a recipe leaves unsaid is said by bridgeflow.
        if "name" not in _mapping(tree, section):
            known[kind, RecipeKeys.model_fields[section].default["name"]] = registry.OWN_DISTRIBUTION
    tree = _with_default_names(tree)
    named = isinstance(tree.get("task"), str)
    # A missing name is reported once, by `_plugin`, which knows the tasks.
    keys = validated(RecipeKeys, tree if named else {**tree, "task": ""}, "", mistakes)
    task = _plugin("task", tree.get("task"), mistakes, known)
    sections: dict[str, Any] = {}
    if task is not None:
        sections["options"] = validated(task.Options, _mapping(tree, "options"), "options", mistakes)
        sections |= _modalities(task, tree, mistakes, known)
    for section, kind in _SECTIONS.items():
        given = _mapping(tree, section) or RecipeKeys.model_fields[section].default
        own = {key: value for key, value in given.items() if key != "name"}
        if section == "data" and not with_data:
            sections[section] = UnreadData(str(given["name"]), known.get((kind, given["name"]), ""), own)
            continue
        settings = _plugin(kind, given.get("name"), mistakes, known)
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


COMPONENTS = {
    "source_encoder": "source_encoder",
    "coupling": "coupling",
    "path": "path",
    "objective": "objective",
    "encoding": "encoding_loss",
    "optimizer": "optimizer",
    "sampling.solver": "solver",
    "sampling.guidance": "guidance",
}
"""Keys of a recipe whose settings are those of a plugin, with its kind."""


def _at(keys: Any, place: str) -> Any:
    for part in place.split("."):
        keys = getattr(keys, part)
    return keys


_SECTIONS = {"data": "dataset", "network": "network"}
"""Sections of a recipe that name a plugin, with its kind."""


def _with_default_names(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree with the default's name in a component's section that gives none: {patch: 2} is a dit's."""
    return _named(tree, {key: field.default for key, field in RecipeKeys.model_fields.items()})


def _named(tree: Mapping[str, Any], defaults: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    named = dict(tree)
    for key, default in defaults.items():
        given = tree.get(key)
        if not isinstance(given, Mapping):
            continue
        name = default.get("name") if isinstance(default, dict) else getattr(default, "name", None)
        own = {"name": name, **given} if name is not None else dict(given)
        settings = _chosen(f"{place}{key}", own.get("name"), default) if isinstance(default, BaseModel) else None
        if settings is not None:
            inside = {field: info.default for field, info in settings.model_fields.items()}
            own = _named(own, inside, f"{place}{key}.")
        named[key] = own
    return named


def _chosen(place: str, name: Any, default: BaseModel) -> type[BaseModel] | None:
    """The settings that a section's name chooses; None where it is no plugin's and not the default's."""
    if name == getattr(default, "name", None):
        return type(default)
    try:
        own: type[BaseModel] = registry.load(COMPONENTS[place], str(name))
    except (KeyError, BridgeflowError):
        # Told where the recipe is checked.
        return None
    return own


def modality_uses(task: type[Task]) -> dict[str, ModalityUse]:
    """What a task says of every modality, each by the key of its section in a recipe."""
    conditions = {f"source.conditions.{name}": use for name, use in task.conditions.items()}
    return {"source": task.source, **conditions, "target": task.target}


def _modalities(
    task: type[Task], tree: Mapping[str, Any], mistakes: list[str], known: dict[tuple[str, str], str]
) -> dict[str, Any]:
    """Classes and options of the modalities of a task, by the fields of `Recipe`."""
    home = registry.find("task", tree["task"], known["task", tree["task"]]).distribution
    source = dict(_mapping(tree, "source"))
    given = {"source": source, "target": _mapping(tree, "target")}
    given |= _condition_sections(task, source, mistakes)
    kinds: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for place, use in modality_uses(task).items():
        known.setdefault(("modality", use.name), home)
        kinds[place] = _plugin("modality", use.name, mistakes, known)
        if kinds[place] is not None:
            own = layers.merge(use.options, given.get(place, {}))
            options[place] = validated(kinds[place].Options, own, place, mistakes)
    *some, last = map(repr, kinds)
    for key in _mapping(tree, "codecs"):
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


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _plugin(kind: str, name: Any, mistakes: list[str], homes: dict[tuple[str, str], str]) -> Any:
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
