"""What becomes of the inputs of `bridgeflow run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridgeflow.inference.pipeline import Pipeline


@dataclass(frozen=True)
class Request:
    """What becomes of each input: results by itself, with terms added and taken away, or on the way to an end."""

    seed: int
    samples: int = 1
    plus: tuple[Any, ...] = ()
    minus: tuple[Any, ...] = ()
    end: Any = None
    frames: int = 0

    @property
    def each(self) -> int:
        """Results of one input."""
        return self.frames or self.samples

    @property
    def terms(self) -> list[Any]:
        """The items that go with every input."""
        return [*self.plus, *self.minus, *([self.end] if self.frames else [])]

    def run(self, pipeline: Pipeline, items: list[Any]) -> list[list[Any]]:
        """The results of each item."""
        if self.frames:
            return pipeline.interpolate(items, self.end, self.frames, self.seed)
        if self.terms:
            return pipeline.combine(items, self.plus, self.minus, self.samples, self.seed)
        return pipeline.generate(items, self.samples, self.seed)
