"""Tasks with more than one source: one that the flow starts from, and conditions that the network is given beside it.

To the engine both are one modality, whose items are `Conditioned` and whose latents have `conditions`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import SerializeAsAny, model_serializer
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.modality import Item, Latent, LatentSpec, Modality, Progress
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
    """A source with conditions, as one modality. Tensors of its batches and of its fitted state are those of the start,
    and `NAME/...` for each condition."""

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

    def parts(self) -> Sequence[Modality]:
        """The start and the conditions."""
        return list(self._parts.values())

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

    @property
    def most_fitted(self) -> int:  # type: ignore[override]
        """The most that any part takes."""
        return max(own.most_fitted for own in self._parts.values())

    def batch_key(self, item: Conditioned) -> Hashable:
        """Pieces that go together in every part."""
        return tuple(own.batch_key(_part(item, prefix)) for prefix, own in self._parts.items())

    def read(self, value: Any) -> Conditioned:
        """The items of a `Conditioned` of values. Raises UsageError where a condition is missing or unknown."""
        given = value.conditions if isinstance(value, Conditioned) else {}
        check_conditions(self.conditions, given)
        start = value.start if isinstance(value, Conditioned) else value
        conditions = {name: own.read(given[name]) for name, own in self.conditions.items()}
        return Conditioned(self.start.read(start), conditions)

    def collate(self, items: Sequence[Conditioned]) -> dict[str, Tensor]:
        """The batches of all parts."""
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

    def advise(self, items: Iterable[Conditioned], side: str) -> list[str]:
        """What the options of any part lose."""
        own = list(items)
        found = self.start.advise((item.start for item in own), side)
        for name, modality in self.conditions.items():
            found += modality.advise((item.conditions[name] for item in own), f"{side}.conditions.{name}")
        return found

    def unload(self) -> None:
        """Frees the weights of all parts."""
        for own in self._parts.values():
            own.unload()

    def preview(self, item: Conditioned) -> Image:
        """All parts side by side."""
        from PIL import Image

        pictures = [own.preview(_part(item, prefix)) for prefix, own in self._parts.items()]
        height = max(picture.height for picture in pictures)
        shown = Image.new("RGB", (sum(picture.width for picture in pictures), height), "white")
        at = 0
        for picture in pictures:
            shown.paste(picture, (at, (height - picture.height) // 2))
            at += picture.width
        return shown

    def example(self, rng: np.random.Generator) -> Conditioned:
        """A made-up item of every part, which have nothing to do with one another."""
        start = self.start.example(rng)
        return Conditioned(start, {name: own.example(rng) for name, own in self.conditions.items()})

    def extremes(self) -> Mapping[str, Conditioned]:
        """The edges of the start, with made-up conditions."""
        rng = np.random.default_rng(0)
        conditions = {name: own.example(rng) for name, own in self.conditions.items()}
        return {name: Conditioned(item, conditions) for name, item in self.start.extremes().items()}

    # -- codecs that are fitted ------------------------------------------------------------------------------

    @property
    def needs_fit(self) -> bool:
        """True while that of any part has to be fitted."""
        return any(own.needs_fit for own in self._parts.values())

    def fit(self, items: Iterable[Conditioned], progress: Progress | None = None) -> dict[str, float]:
        """Fits the parts that still need it; figures of a condition are called `NAME/...`."""
        unfitted = {prefix: own for prefix, own in self._parts.items() if own.needs_fit}
        figures: dict[str, float] = {}
        for own_items, (prefix, own) in zip(itertools.tee(items, len(unfitted)), unfitted.items(), strict=True):
            found = own.fit(map(_taking(prefix), itertools.islice(own_items, own.most_fitted)), progress)
            figures |= {f"{prefix}{name}": value for name, value in found.items()}
        return figures

    def fitted_state(self) -> dict[str, Tensor]:
        """That of all parts."""
        return {
            f"{prefix}{name}": tensor
            for prefix, own in self._parts.items()
            for name, tensor in own.fitted_state().items()
        }

    def fitted_facts(self) -> dict[str, Any]:
        """That of the start, and under `NAME/` that of a condition."""
        conditions = {f"{name}/": facts for name, own in self.conditions.items() if (facts := own.fitted_facts())}
        return {**self.start.fitted_facts(), **conditions}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes back what `fitted_state` and `fitted_facts` gave, or the start's alone."""
        names = {f"{name}/" for name in self.conditions}
        for prefix, own in self._parts.items():
            own_state = self._own(state, prefix)
            own_facts = facts.get(prefix, {}) if prefix else {k: v for k, v in facts.items() if k not in names}
            if own_state or own_facts:
                own.restore(own_state, own_facts)

    def fingerprint(self) -> str:
        """Changes with that of any part."""
        parts = [f"{prefix}{own.fingerprint()}" for prefix, own in self._parts.items()]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _part(item: Conditioned, prefix: str) -> Item:
    return item.conditions[prefix[:-1]] if prefix else item.start


def _taking(prefix: str) -> Callable[[Conditioned], Item]:
    return lambda item: _part(item, prefix)


def check_conditions(known: Iterable[str], given: Iterable[str]) -> None:
    """Raises UsageError where conditions that are given are not those of the task."""
    known, given = list(known), list(given)
    unknown = [name for name in given if name not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise UsageError(f"this model takes no condition {unknown[0]!r}: {takes}.")
    missing = [name for name in known if name not in given]
    if missing:
        name = missing[0]
        raise UsageError(
            f"this model needs {name!r} beside its input: give it with --with {name}=VALUE, or in Python with "
            f"conditions={{{name!r}: value}}."
        )
