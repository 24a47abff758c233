"""A task under examination, with both of its modalities ready for made-up rows."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bridgeflow import registry
from bridgeflow.conditioned import Conditioned, ConditionedModality, ConditionedOptions, fault_of_name, item_at
from bridgeflow.config import layers, recipe
from bridgeflow.config.modalities import modality_uses
from bridgeflow.config.recipe import Recipe
from bridgeflow.config.validation import validated
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item, Latent, Modality
from bridgeflow.registry import naming
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task
from bridgeflow.testing.comparing import same
from bridgeflow.testing.outcome import Fault, calling, described, remembered
from bridgeflow.testing.subject import ROWS, PluginSubject, copied, default_settings

FITTED = 64
"""Made-up rows that a codec is fitted to."""
FEW_STEPS = 20
"""An option called `steps` is lowered to this while a task is checked, where codecs have to run but not to be good."""
SIDES = ("source", "target")


class TaskSubject(PluginSubject[Task]):
    """A task, and what comes of its methods on made-up rows."""

    contract = Task
    word = "task"

    @remembered
    def settings(self) -> Settings:
        """The task's options, all at their defaults."""
        return default_settings(self.kind.Options)

    def use(self, side: str) -> ModalityUse:
        """What the class says of a side."""
        use = getattr(self.kind, side, None)
        if not isinstance(use, ModalityUse):
            raise Fault(f'`{side}` is not set: write {side} = ModalityUse("the name of a modality") in the class.')
        return use

    @property
    def uses(self) -> dict[str, ModalityUse]:
        """What the class says of every modality, by the section of a recipe that has its options."""
        conditions = getattr(self.kind, "conditions", None)
        if not isinstance(conditions, Mapping) or not all(isinstance(own, ModalityUse) for own in conditions.values()):
            raise Fault(
                '`conditions` is no mapping from names to modalities: write conditions = {"text": ModalityUse("text")}.'
            )
        for name in conditions:
            fault = fault_of_name(name)
            if fault is not None:
                raise Fault(f"`conditions` names {name!r}, which is no name for one: {fault}.")
        _ = self.use("source"), self.use("target")
        return modality_uses(self.kind)

    @remembered
    def modalities(self) -> dict[str, tuple[type[Modality], Settings]]:
        """The class and the options of each of them: those of the default recipe, where that fits."""
        found = {}
        for side, use in self.uses.items():
            try:
                own = self.loaded[1]
                home = own.distribution if own is not None else ""
                modality: type[Modality] = registry.load("modality", use.name, home)
            except BridgeflowError as error:
                raise Fault(f"its {side} cannot be had: {error}") from error
            options = layers.merge(use.options, self._recipe_options(side))
            mistakes: list[str] = []
            settings = validated(modality.Options, _few_steps(options, modality.Options), side, mistakes)
            if mistakes:
                raise Fault(
                    f"the options of its {side} do not suit {use.name!r} ({mistakes[0].rstrip('.')}): fix them."
                )
            found[side] = (modality, settings)
        return found

    def _recipe_options(self, side: str) -> Mapping[str, Any]:
        try:
            resolved = self.resolved
        except Fault:
            # The check of the default recipe says what is wrong with it.
            return {}
        options = None if resolved is None else resolved.modality_options.get(side)
        return {} if options is None else options.model_dump(mode="json")

    @remembered
    def resolved(self) -> Recipe | None:
        """The default recipe, checked; None for a class that no entry point names, which no recipe can name."""
        name = self.kind.default_recipe
        if self.loaded[1] is None:
            return None
        if not name:
            raise Fault(
                "`default_recipe` is not set, so `train --task` needs a recipe each time: name one as 'task/recipe'."
            )
        try:
            resolved = recipe.load(naming.recipe_at_home(name, self.loaded[1].distribution))
        except BridgeflowError as error:
            sentence = " ".join(str(error).split())
            raise Fault(f"the default recipe {name!r} does not resolve ({sentence.rstrip('.')}): fix it.") from error
        if resolved.task_name.rpartition(":")[2] != self.loaded[1].name:
            raise Fault(
                f"the default recipe {name!r} is one for the task {resolved.task_name!r}: name a recipe of "
                f"{self.loaded[1].name!r}."
            )
        return resolved

    @remembered
    def unfitted(self) -> Task:
        """The task between its modalities, whose codecs are as they were built."""
        built = {}
        for side, (modality, settings) in self.modalities.items():
            with calling(f"{modality.__name__}.__init__", f"the options of its {side}"):
                built[side] = modality(settings)
        source = built["source"]
        conditions = {name: built[f"source.conditions.{name}"] for name in self.kind.conditions}
        if conditions:
            own_options = {name: own.options for name, own in conditions.items()}
            options = ConditionedOptions(start=source.options, conditions=own_options)
            source = ConditionedModality(options, source, conditions)
        with calling("__init__", "its options and both modalities"):
            return self.kind(self.settings, source, built["target"])

    @remembered
    def rows(self) -> list[dict[str, Any]]:
        """Made-up rows, each from a seed of its own, with every column."""
        rows = [self.row(seed) for seed in range(ROWS)]
        lacking = [name for row in rows for name in self.kind.columns if row.get(name) is None]
        if lacking:
            raise Fault(f"`example` gave a row without the column {lacking[0]!r}: give every column of `columns`.")
        return rows

    def row(self, seed: int) -> dict[str, Any]:
        """The made-up row of a seed."""
        with calling("example"):
            row = self.kind.example(np.random.default_rng(seed))
        if not isinstance(row, Mapping):
            raise Fault(f"`example` gave a {type(row).__name__}: let it give a dict from columns to values.")
        return dict(row)

    def pair(self, row: Mapping[str, Any], seed: int = 0) -> tuple[Item, Item]:
        """The pair of a row."""
        with calling("pair", "a made-up row"):
            pair = self.unfitted.pair(copied(row), np.random.default_rng(seed))
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise Fault(f"`pair` gave a {type(pair).__name__}: let it give (source item, target item).")
        names = pair[0].conditions.keys() if isinstance(pair[0], Conditioned) else ()
        if set(names) != set(self.kind.conditions):
            declared = listed(self.kind.conditions)
            raise Fault(
                f"`pair` gave a source item with {listed(names)}, where the class declares {declared}: let it "
                "give a bridgeflow.conditioned.Conditioned with an item for each of `conditions`."
            )
        return pair

    @remembered
    def pairs(self) -> list[tuple[Item, Item]]:
        """The pairs of the made-up rows."""
        return [self.pair(row) for row in self.rows]

    @remembered
    def ready(self) -> Task:
        """The task with fitted modalities."""
        task = self.unfitted
        for side in SIDES:
            for place, modality in self.modality(side).parts(side).items():
                if modality.needs_fit:
                    items = [item_at(self.pair(self.row(seed)), place) for seed in range(FITTED)]
                    with calling("fit", f"items of the {place}"), torch.random.fork_rng(devices=[]):
                        torch.manual_seed(0)
                        modality.fit(iter(items))
        return task

    def modality(self, side: str) -> Modality:
        """The modality of a side, as the task was given it."""
        task = self.unfitted
        modality = getattr(task, "from_modality" if side == "source" else "to_modality", None)
        if not isinstance(modality, Modality):
            raise Fault("`__init__` keeps no modalities: call super().__init__(options, source, target) in it.")
        return modality

    @remembered
    def sources(self) -> Latent:
        """The source items, encoded."""
        return self.encode("source", [pair[0] for pair in self.pairs])

    @remembered
    def targets(self) -> Latent:
        """The target items, encoded."""
        return self.encode("target", [pair[1] for pair in self.pairs])

    def encode(self, side: str, items: list[Item]) -> Latent:
        """The latent of items of a side."""
        _ = self.ready
        modality, name = self.modality(side), self.use(side).name
        with calling("pair", f"a made-up row, whose {side} item {name!r} cannot collate"):
            batch = modality.collate(items)
        with calling("pair", f"a made-up row, whose {side} item {name!r} cannot encode"), torch.no_grad():
            return modality.encode(batch)

    @remembered
    def results(self) -> list[Item]:
        """The truths as a perfect network would give them: encoded, decoded, joined."""
        with calling("target", "its latents, which it cannot decode"), torch.no_grad():
            decoded = self.modality("target").decode(self.targets.mean)
        results = []
        for (source, _), own in zip(self.pairs, decoded, strict=True):
            pieces = self.split(source)
            with calling("join", f"the results of {len(pieces)} pieces"):
                results.append(self.ready.join(copied([own] * len(pieces)), copied(source)))
        with calling("join", "decoded results, into something that the target cannot collate"):
            self.modality("target").collate(copied(results))
        if _all_the_same(results) and not _all_the_same(decoded):
            raise Fault("`join` gave the same result whatever the pieces became: make it from their results.")
        return results

    @remembered
    def figures(self) -> dict[str, float]:
        """The figures of those results."""
        return self.score(self.results, "decoded truths")

    def score(self, results: Sequence[Item], what: str) -> dict[str, float]:
        """The figures of results; `what` says which they are."""
        truths, sources = [pair[1] for pair in self.pairs], [pair[0] for pair in self.pairs]
        kept = {"results": list(results), "truths": truths, "sources": sources, "rows": self.rows}
        given = copied(kept)
        with calling("metrics", what):
            figures = self.ready.metrics(*given.values())
        changed = [name for name, value in kept.items() if not same(given[name], value)]
        if changed:
            raise Fault(
                f"`metrics` changed the {changed[0]} it was given: work on copies, since they are shown and scored "
                "again."
            )
        if not isinstance(figures, dict) or not all(isinstance(name, str) for name in figures):
            raise Fault("`metrics` gave something else than numbers by name: let it give a dict[str, float].")
        for name, value in figures.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise Fault(f"the metric {name!r} is {value!r} on {what}: give a finite float.")
        try:
            json.dumps(figures)
        except (TypeError, ValueError) as error:
            raise Fault(f"`metrics` is not JSON ({described(error)}): give plain floats.") from error
        return figures

    def split(self, source: Item) -> list[Item]:
        """The pieces of a source item."""
        with calling("split", "a source item"):
            pieces = self.ready.split(copied(source))
        if not isinstance(pieces, list) or not pieces:
            raise Fault("`split` gave no list of pieces: let it give at least one item for every source item.")
        return pieces


def listed(names: Collection[str]) -> str:
    """Conditions by name, in words."""
    return f"the conditions {', '.join(sorted(names))}" if names else "no conditions"


def _all_the_same(items: Sequence[Item]) -> bool:
    return all(same(items[0], item) for item in items[1:])


def _few_steps(options: Mapping[str, Any], model: type[Settings]) -> dict[str, Any]:
    """Options with every one called `steps` lowered; the defaults are looked at too."""
    try:
        tree = model.model_validate(dict(options)).model_dump(mode="json")
    except ValueError:
        # Told by whoever validates them.
        return dict(options)
    return layers.merge(options, _lowered(tree))


def _lowered(tree: Mapping[str, Any]) -> dict[str, Any]:
    lowered: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            inner = _lowered(value)
            if inner:
                lowered[key] = {**({"name": value["name"]} if "name" in value else {}), **inner}
        elif key == "steps" and isinstance(value, int):
            lowered[key] = min(value, FEW_STEPS)
    return lowered
