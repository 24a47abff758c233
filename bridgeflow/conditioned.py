"""Tasks with more than one source: one that the flow starts from, and conditions that the network is given beside it.

To the engine both are one modality, whose items are `Conditioned` and whose latents have `conditions`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import SerializeAsAny, model_serializer
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Latent, LatentSpec, Modality
from bridgeflow.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Conditioned:
    """The source item of a task with conditions, as its `pair` gives it.

        >>> Conditioned(picture, {"text": "make the cube red"})

    start: what the flow starts from. conditions: an item for each of `Task.conditions`, by name.
    """

    start: Item
    conditions: Mapping[str, Item]


class ConditionedOptions(Settings):
    """The section `source` of a recipe whose task has conditions: the options of the modality that the flow starts
    from, and under `conditions` those of the others, by name."""

    start: SerializeAsAny[Settings]
    """Options of the source modality."""
    conditions: dict[str, SerializeAsAny[Settings]]
    """Options of each condition's modality."""

    @model_serializer
    def _as_a_section(self) -> dict[str, Any]:
        conditions = {name: own.model_dump(mode="json") for name, own in self.conditions.items()}
        return {**self.start.model_dump(mode="json"), "conditions": conditions}


class ConditionedModality(Modality):
    """A source with conditions, as one modality: it reads, collates and encodes all of them together. Tensors of its
    batches are those of the start, and `NAME/...` for each condition. Codecs are fitted and kept for each part."""

    options: ConditionedOptions

    def __init__(self, options: ConditionedOptions, start: Modality, conditions: Mapping[str, Modality]) -> None:
        super().__init__(options)
        self.start = start
        self._conditions = nn.ModuleDict(conditions)
        # What people give to `run`, and where data sets have it, is that of the start.
        self.reads, self.textual, self.column = start.reads, start.textual, start.column  # type: ignore[misc]
        self.reading = sum(own.reading for own in self._parts.values())  # type: ignore[misc]

    @property
    def conditions(self) -> Mapping[str, Modality]:
        """The conditions' modalities, by name."""
        return {name: own for name, own in self._conditions.items() if isinstance(own, Modality)}

    def parts(self, place: str) -> dict[str, Modality]:
        """The start at the place itself, and each condition at PLACE.conditions.NAME."""
        return {place: self.start, **{f"{place}.conditions.{name}": own for name, own in self.conditions.items()}}

    @property
    def _parts(self) -> dict[str, Modality]:
        """All modalities by the prefix of their tensors."""
        return {"": self.start, **{f"{name}/": own for name, own in self.conditions.items()}}

    @property
    def latent(self) -> LatentSpec:
        """That of the start."""
        return self.start.latent

    @property
    def piece_latent(self) -> LatentSpec:
        """That of the start."""
        return self.start.piece_latent

    def batch_key(self, item: Conditioned) -> Hashable:
        """Pieces that go together in every part."""
        return tuple(own.batch_key(_part(item, prefix)) for prefix, own in self._parts.items())

    def read(self, value: Any) -> Conditioned:
        """The items of a `Conditioned` of values. Raises BridgeflowError where a condition is missing or unknown."""
        given = checked(value, self.conditions)
        conditions = {name: own.read(given.conditions[name]) for name, own in self.conditions.items()}
        return Conditioned(self.start.read(given.start), conditions)

    def collate(self, items: Sequence[Conditioned]) -> dict[str, Tensor]:
        """The batches of all parts. Raises BridgeflowError for items that are no `Conditioned` of these conditions."""
        for item in items:
            checked(item, self.conditions)
        return {
            f"{prefix}{name}": tensor
            for prefix, own in self._parts.items()
            for name, tensor in own.collate([_part(item, prefix) for item in items]).items()
        }

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """The start's latent, with those of the conditions."""
        latents = {prefix: own.encode(self._own(batch, prefix)) for prefix, own in self._parts.items()}
        start = latents.pop("")
        # Whoever encodes says what is wrong with a part that is no latent.
        if not isinstance(start, Latent):
            return start
        return replace(start, conditions={prefix[:-1]: latent for prefix, latent in latents.items()})

    def observed(self, batch: dict[str, Tensor]) -> Tensor | None:
        """What the start looks like."""
        return self.start.observed(self._own(batch, ""))

    def _own(self, named: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """What of tensors belongs to a part, by its own names."""
        others = tuple(f"{name}/" for name in self.conditions)
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in named.items()
            if (name.startswith(prefix) if prefix else not name.startswith(others))
        }

    def in_place(
        self, item: Conditioned, plus: Sequence[Conditioned], minus: Sequence[Conditioned]
    ) -> tuple[list[Conditioned], list[Conditioned]]:
        """What is added to the start and taken from it, as it stands there."""
        starts = [[own.start for own in terms] for terms in (plus, minus)]
        placed = self.start.in_place(item.start, *starts)
        added, taken = (
            [replace(own, start=start) for own, start in zip(terms, found, strict=True)]
            for terms, found in zip((plus, minus), placed, strict=True)
        )
        return added, taken

    def unload(self) -> None:
        """Frees the weights of all parts."""
        for own in self._parts.values():
            own.unload()

    def preview(self, item: Conditioned) -> Image:
        """That of the start; `previews` has the others."""
        return self.start.preview(item.start)

    def previews(self, item: Conditioned) -> dict[str, Image]:
        """That of the start, as 'source', and of each condition, by name."""
        return {
            "source": self.preview(item),
            **{name: own.preview(item.conditions[name]) for name, own in self.conditions.items()},
        }

    def example(self, rng: np.random.Generator) -> Conditioned:
        """A made-up item of every part, which have nothing to do with one another."""
        start = self.start.example(rng)
        return Conditioned(start, {name: own.example(rng) for name, own in self.conditions.items()})

    def extremes(self) -> Mapping[str, Conditioned]:
        """The edges of the start, with made-up conditions."""
        rng = np.random.default_rng(0)
        conditions = {name: own.example(rng) for name, own in self.conditions.items()}
        return {name: Conditioned(item, conditions) for name, item in self.start.extremes().items()}

    @property
    def needs_fit(self) -> bool:
        """True while the codec of any part has to be fitted; each is fitted by itself (`Task.parts`)."""
        return any(own.needs_fit for own in self._parts.values())

    def fingerprint(self) -> str:
        """Changes with that of any part."""
        parts = [f"{prefix}{own.fingerprint()}" for prefix, own in self._parts.items()]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _part(item: Conditioned, prefix: str) -> Item:
    return item.conditions[prefix[:-1]] if prefix else item.start


def checked(given: Any, conditions: Iterable[str]) -> Conditioned:
    """What was given, a `Conditioned` with these conditions. Raises BridgeflowError for anything else."""
    wanted = list(conditions)
    if not isinstance(given, Conditioned):
        made = ", ".join(f"{name!r}: ..." for name in wanted)
        raise BridgeflowError(
            f"a source with conditions is made from a {type(given).__name__}: give a bridgeflow.conditioned.Conditioned"
            f"(start, {{{made}}})."
        )
    check_conditions(wanted, given.conditions)
    return given


def check_conditions(wanted: Sequence[str], given: Iterable[str]) -> None:
    """Raises UsageError where the conditions given are not those of the task."""
    given = list(given)
    unknown = [name for name in given if name not in wanted]
    if unknown:
        takes = f"it takes {', '.join(wanted)}" if wanted else "it takes none"
        raise UsageError(f"this task has no condition {unknown[0]!r}: {takes}.")
    missing = [name for name in wanted if name not in given]
    if missing:
        name = missing[0]
        raise UsageError(
            f"this task needs {name!r} beside its input: give it with --with {name}=VALUE, or in Python with "
            f"conditions={{{name!r}: value}}."
        )


def item_at(pair: tuple[Item, Item], place: str) -> Item:
    """The item of a task's pair for the modality at a place, as `Task.parts` names it."""
    source, target = pair
    if place == "target":
        return target
    name = place.partition(".conditions.")[2]
    if name:
        return source.conditions[name]
    return start_of(source)


def start_of(item: Item) -> Item:
    """What of a source item the flow starts from."""
    return item.start if isinstance(item, Conditioned) else item


def fault_of_name(name: str) -> str | None:
    """Why a task cannot call a condition so, in a clause; None where it can."""
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        return "it should be of lower-case letters, digits and underscores"
    # Modules are kept by these names, as attributes of a torch.nn.ModuleDict.
    return "torch.nn.Module has an attribute of this name" if hasattr(nn.ModuleDict, name) else None
