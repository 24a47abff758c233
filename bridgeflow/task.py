"""The contract of a task: its modalities, the pair that a row of data holds, and how the result is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import API_VERSION, Item, Modality
from bridgeflow.settings import Settings


@dataclass(frozen=True)
class ModalityUse:
    """A modality by its registered name, with the options that the task sets before the recipe does."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Thorough:
    """Figures that take longer than those of `Task.metrics`.

    figures: given the numbers of some examples, their figures; it is called for many choices of examples, so what is
    costly is prepared before. once: figures of all examples, without a confidence interval. notes: a sentence for each
    figure that was left out, with the reason.
    """

    figures: Callable[[Sequence[int]], Mapping[str, float]]
    once: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Task:
    """Base class of a task. A concrete one sets the class attributes and writes `pair`.

    The engine builds it as `MyTask(options, source, target)` with both modalities ready.
    """

    api_version: ClassVar[int] = API_VERSION
    summary: ClassVar[str] = ""
    source: ClassVar[ModalityUse]
    target: ClassVar[ModalityUse]
    conditions: ClassVar[Mapping[str, ModalityUse]] = {}
    """Further sources, by name: the network is given them beside the state of a flow that starts from `source`. `pair`
    then gives a `bridgeflow.conditioned.Conditioned` as the source item."""
    columns: ClassVar[Mapping[str, str]] = {}
    """Columns that `pair` needs, each with what it holds."""
    holds: ClassVar[Mapping[str, str]] = {}
    """Columns whose items are those of a modality with a `column` of another name: 'source', 'target' or
    'source.conditions.NAME' for each, such as {"edited": "target"}."""
    better: ClassVar[Mapping[str, Literal["higher", "lower"]]] = {}
    """Metrics by which results are ranked, and which way is better. The first that `metrics` gives for the data at
    hand stands for all of them, as where sampling is tuned."""
    judges: ClassVar[Mapping[str, str]] = {}
    """Networks whose weights `bridgeflow eval --weights NAME=PLACE` takes, each with the figure that `thorough` makes
    by it; `self.weights` holds the places that were given."""
    default_recipe: ClassVar[str] = ""
    """Recipe that `train` takes when none is named, as `task/recipe`."""
    default_model: ClassVar[str] = ""
    """Recipe whose installed model `run` takes where the task has no run; `default_recipe` where this is empty."""
    Options: ClassVar[type[Settings]] = Settings
    waived: ClassVar[Mapping[str, str]] = {}
    """Checks of `bridgeflow plugins check` that do not suit this task, by name, each with the reason."""

    def __init__(self, options: Settings, source: Modality, target: Modality) -> None:
        self.options = options
        self.from_modality = source
        self.to_modality = target
        self.weights: dict[str, str] = {}

    def parts(self) -> dict[str, Modality]:
        """Its modalities, each by the key of a recipe's section: 'source', 'source.conditions.NAME', 'target'."""
        return {**self.from_modality.parts("source"), **self.to_modality.parts("target")}

    def judge_by(self, weights: Mapping[str, str]) -> None:
        """Names the weights (name to place) that `thorough` judges by. Raises UsageError where the task has no such
        judge."""
        for name in weights:
            if name not in self.judges:
                has = f"it has {', '.join(self.judges)}" if self.judges else "it has none"
                raise UsageError(f"this task has no judge {name!r} that takes weights: {has}.")
        self.weights = dict(weights)

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(source item, target item) of one row. `rng` drives whatever is random (a crop, a choice of captions)."""
        raise NotImplementedError

    def held_out_pair(self, row: Mapping[str, Any], rng: np.random.Generator, whole: bool = False) -> tuple[Item, Item]:
        """(source item, target item) of a row to be scored on: `pair`, without what a task adds at random to train on.

        whole: where training looks at a part of an item, the item itself, as `bridgeflow eval` scores it; a training's
        own scoring asks for a part.
        """
        return self.pair(row, rng)

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        """A made-up row with every column of `columns`, its values as a data set gives them: for the checks, and for
        training without data (`data.name=examples`)."""
        raise BridgeflowError(f"the task {cls.__name__} makes up no rows: write its class method `example`.")

    def split(self, item: Item) -> list[Item]:
        """The pieces of a source item that the model takes one by one; the whole item by default."""
        return [item]

    def join(self, results: Sequence[Item], item: Item) -> Item:
        """The result for a source item from the results of its pieces, fitted to the item (its size, say)."""
        return results[0]

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        """Figures of results against truths, averaged over the examples given."""
        return {}

    def thorough(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> Thorough | None:
        """More figures of results against truths, for `bridgeflow eval`; a training's own scoring leaves them out."""
        return None

    def errors(
        self, result: Item, spread: NDArray[np.floating], truth: Item
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
        """The error of a result at each place that counts, (n,), and the spread (H, W) that was stated for it there,
        (n,), both in the item's units; None for a task whose results have no errors place by place."""
        return None

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        """(name, results) of a trivial method to hold the figures against, or None.

        `examples` are target items of the training data, read one by one as they are taken.
        """
        return None

    def ceiling(
        self, truths: Sequence[Item], sources: Sequence[Item], rows: Sequence[Mapping[str, Any]]
    ) -> tuple[str, dict[str, float]] | None:
        """(name, figures) of what no model can be seen to do better than, where a figure is a judge's, who errs; or
        None."""
        return None
