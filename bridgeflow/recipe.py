"""Recipes: everything that a training run is made of, checked before anything starts."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from bridgeflow import layers, registry
from bridgeflow.bridge import BridgeSettings
from bridgeflow.data.rows import DataSettings
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.flow.guidance import GuidanceSettings
from bridgeflow.flow.solver import SolverSettings
from bridgeflow.layers import Tree
from bridgeflow.modality import Modality
from bridgeflow.nn.velocity import NetworkSettings
from bridgeflow.settings import Settings
from bridgeflow.task import Task


class AdamWSettings(Settings):
    """AdamW; biases, norms and single vectors are not decayed."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of the schedule."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of matrices and kernels."""


class SGDSettings(Settings):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=1e-2, gt=0)
    """Peak of the schedule."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of matrices and kernels."""


class LearningRateSettings(Settings):
    """The learning rate along the run, as a share of its peak."""

    warmup: int = Field(default=50, ge=0)
    """Optimiser steps from 0 to the peak."""
    decay: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up, up to the last step."""
    final: float = Field(default=0.02, ge=0, le=1)
    """Share of the peak at the last step of a cosine."""


class TrainingSettings(Settings):
    """The length, size and rhythm of a run."""

    steps: int = Field(default=2000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=32, ge=1)
    """Pairs a process takes for one backward pass."""
    accumulation: int = Field(default=1, ge=1)
    """Backward passes summed into an optimiser step."""
    seed: int = Field(default=0, ge=0)
    """Every draw of step n derives from (seed, n)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
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
    evaluate: int = Field(default=256, ge=0)
    """Held-out examples that are scored at the end; 0 scores none."""
    workers: int = Field(default=0, ge=0)
    """Processes that read rows ahead; 0 reads in the training process."""


class SamplingSettings(Settings):
    """Defaults of sampling, kept with the checkpoint."""

    solver: SolverSettings = SolverSettings()
    """Method and steps."""
    guidance: GuidanceSettings = GuidanceSettings()
    """None or by the indicator."""
    source: Literal["sample", "mean"] = "sample"
    """Whether a noisy or variational source is drawn or taken at its mean."""
    batch_size: int = Field(default=32, ge=1)
    """Items carried together."""


class Recipe(BridgeSettings):
    """A recipe's own keys. The sections `source`, `target`, `options`, `data` and `network` belong to plugins
    and are checked against their settings in `resolve`."""

    task: str
    """Name of the task."""
    options: dict[str, Any] = {}
    """Options of the task."""
    source: dict[str, Any] = {}
    """Options of the source modality."""
    target: dict[str, Any] = {}
    """Options of the target modality."""
    data: dict[str, Any] = {"name": "blocks"}
    """The data set by `name`, with its settings."""
    codecs: dict[Literal["source", "target"], str] = {}
    """Folders of codecs that `bridgeflow fit` made; a codec without one is fitted when training starts."""
    columns: dict[str, str] = {}
    """Column that the task needs -> column of the data, where the names differ."""
    network: dict[str, Any] = {"name": "dit"}
    """The velocity network by `name`, with its settings."""
    optimizer: Annotated[AdamWSettings | SGDSettings, Field(discriminator="name")] = AdamWSettings()
    """The optimiser."""
    training: TrainingSettings = TrainingSettings()
    """Length, size and rhythm."""
    sampling: SamplingSettings = SamplingSettings()
    """Defaults of sampling."""


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with every plugin section checked and typed."""

    name: str
    recipe: Recipe
    task: type[Task]
    options: Settings
    source: type[Modality]
    source_options: Settings
    target: type[Modality]
    target_options: Settings
    data: DataSettings
    network: NetworkSettings

    def tree(self) -> Tree:
        """The whole recipe with every default written out; `resolve` takes it back unchanged."""
        tree: Tree = self.recipe.model_dump(mode="json")
        tree["options"] = self.options.model_dump(mode="json")
        tree["source"] = self.source_options.model_dump(mode="json")
        tree["target"] = self.target_options.model_dump(mode="json")
        tree["data"] = {"name": self.recipe.data["name"], **self.data.model_dump(mode="json")}
        tree["network"] = {**self.network.model_dump(mode="json"), "name": self.recipe.network["name"]}
        return tree

    def yaml(self) -> str:
        """`tree` as YAML."""
        return layers.dump(self.tree())

    def changed(self, **sections: Any) -> ResolvedRecipe:
        """The same recipe with keys laid over it and checked again."""
        return resolve(layers.merge(self.tree(), sections), self.name)


def data_section(text: str) -> Tree:
    """The `data` section that `--data NAME` or `--data NAME:LOCATION` means."""
    name, _, location = text.partition(":")
    known = {plugin.name for plugin in registry.installed("dataset")}
    if name not in known and text and Path(text).is_dir():
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
) -> ResolvedRecipe:
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


def resolve(tree: Mapping[str, Any], name: str) -> ResolvedRecipe:
    """A checked recipe from a tree of keys. Raises UsageError with every mistake at once."""
    mistakes: list[str] = []
    tree = _with_default_names(tree)
    named = isinstance(tree.get("task"), str)
    # A missing name is told once, by `_plugin`, which knows the tasks.
    recipe = validated(Recipe, tree if named else {**tree, "task": ""}, "", mistakes)
    task = _plugin("task", tree.get("task"), mistakes)
    sections: dict[str, Any] = {}
    if task is not None:
        sections["options"] = validated(task.Options, _mapping(tree, "options"), "options", mistakes)
        for side in ("source", "target"):
            use = getattr(task, side)
            modality = _plugin("modality", use.name, mistakes)
            sections[f"{side}_class"] = modality
            if modality is not None:
                options = layers.merge(use.options, _mapping(tree, side))
                sections[side] = validated(modality.Options, options, side, mistakes)
    for section, kind in (("data", "dataset"), ("network", "network")):
        given = _mapping(tree, section) or Recipe.model_fields[section].default
        settings = _plugin(kind, given.get("name"), mistakes)
        if settings is not None:
            own = {key: value for key, value in given.items() if key != "name"}
            sections[section] = validated(settings, own, section, mistakes)
    if mistakes or recipe is None or task is None:
        each = list(dict.fromkeys(mistakes))
        if len(each) == 1:
            raise UsageError(f"recipe {name!r}: {each[0]}")
        raise UsageError(f"recipe {name!r} has {len(each)} mistakes:" + "".join(f"\n  {mistake}" for mistake in each))
    return ResolvedRecipe(
        name,
        recipe,
        task,
        sections["options"],
        sections["source_class"],
        sections["source"],
        sections["target_class"],
        sections["target"],
        sections["data"],
        sections["network"],
    )


def _with_default_names(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree with the default's name in a component's section that gives none: {patch: 2} is a dit's."""
    return _named(tree, {key: field.default for key, field in Recipe.model_fields.items()})


def _named(tree: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    named = dict(tree)
    for key, default in defaults.items():
        given = tree.get(key)
        if not isinstance(given, Mapping):
            continue
        name = default.get("name") if isinstance(default, dict) else getattr(default, "name", None)
        own = {"name": name, **given} if name is not None else dict(given)
        if isinstance(default, BaseModel) and own.get("name") == name:
            own = _named(own, {field: getattr(default, field) for field in type(default).model_fields})
        named[key] = own
    return named


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _plugin(kind: str, name: Any, mistakes: list[str]) -> Any:
    if not isinstance(name, str):
        mistakes.append(
            f"{kind}: no name is given; one of {', '.join(p.name for p in registry.installed(kind))} is expected."
        )
        return None
    try:
        return registry.load(kind, name)
    except BridgeflowError as error:
        mistakes.append(str(error))
        return None


def validated(model: type[BaseModel], values: Mapping[str, Any], section: str, mistakes: list[str]) -> Any:
    """The model of those values; on failure None, with a sentence for each mistake added to `mistakes`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found: dict[tuple[str, ...], list[Any]] = {}
        for problem in error.errors():
            found.setdefault(_without_tags(problem["loc"], values), []).append(problem)
        for path, problems in found.items():
            # A union reports each of its forms; the one that got furthest is the one that was meant.
            if not any(other[: len(path)] == path for other in found if other != path):
                place = ".".join([*([section] if section else []), *path])
                mistakes.append(f"{place or 'recipe'}: {_sentence(model, problems)}")
        return None


_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list, such as [1, 2]",
    "list_type": "a list, such as [1, 2]",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def _sentence(model: type[BaseModel], problems: Sequence[Any]) -> str:
    """What is wrong at one place; several problems there are the forms of a union, none of which fits."""
    problem, context = problems[0], problems[0].get("ctx", {})
    kind, given = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        known = sorted(_keys_at(model, problem["loc"][:-1]))
        return f"unknown key. {_nearest(problem['loc'][-1], known, 'Known here')}"
    if kind == "missing":
        return f"this {'value' if isinstance(problem['loc'][-1], int) else 'key'} is required."
    if kind == "union_tag_invalid":
        names = [name.strip().strip("'") for name in context["expected_tags"].split(",")]
        return f"no {context['tag']!r}. {_nearest(context['tag'], names, 'One of these is expected')}"
    if kind == "union_tag_not_found":
        return "its name is missing, such as {name: ...}."
    if kind == "value_error":
        return f"{problem['msg'].removeprefix('Value error, ').rstrip('.')}."
    expected = dict.fromkeys(_expected(own) for own in problems)
    shown = "null" if given is None else str(given).lower() if isinstance(given, bool) else repr(given)
    mend = f"; write {given!r} as its name" if kind == "model_attributes_type" and isinstance(given, str) else ""
    return f"should be {' or '.join(expected)}, not {shown}{mend}."


def _expected(problem: Any) -> str:
    if problem["type"] == "too_long":
        return f"at most {problem['ctx']['max_length']} values"
    if problem["type"] == "too_short":
        return f"at least {problem['ctx']['min_length']} values"
    return _EXPECTED.get(problem["type"]) or str(problem["msg"]).removeprefix("Input should be ")


def _nearest(name: Any, known: Sequence[str], otherwise: str) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"{otherwise}: {', '.join(known) or 'none'}."


def _without_tags(location: Sequence[Any], values: Any) -> tuple[str, ...]:
    """The keys of a pydantic location, without the tags of unions that pydantic puts between them."""
    keys: list[str] = []
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(values, Mapping):
            if part in values:
                values = values[part]
            elif not last or values.get("name") == part:
                continue
        elif isinstance(values, list | tuple) and isinstance(part, int):
            if part < len(values):
                values = values[part]
        else:
            continue
        keys.append(str(part))
    return tuple(keys)


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> set[str]:
    """Keys that a model knows at a location of a validation error."""
    models = [model]
    for part in location:
        tagged = [m for m in models if "name" in m.model_fields and m.model_fields["name"].default == part]
        if tagged and not any(part in m.model_fields for m in models):
            models = tagged
            continue
        models = [found for m in models if part in m.model_fields for found in _models(m.model_fields[part].annotation)]
    return {key for m in models for key in m.model_fields}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in _models(argument)]
