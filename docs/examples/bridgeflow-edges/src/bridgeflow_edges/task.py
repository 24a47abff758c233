"""Pictures from edge maps: the flow starts from the edges themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from bridgeflow.modality import Item
from bridgeflow.task import ModalityUse, Task

from bridgeflow_edges import draw_picture


class EdgesToImage(Task):
    """An edge map becomes a picture with those edges."""

    summary = "a picture from its edges"
    source = ModalityUse("edges")
    target = ModalityUse("image_latent")
    columns = {"image": "a picture, whose edges are found as it is read"}
    better = {"edge_error": "lower"}
    default_recipe = "edges_to_image/blocks"

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(edge map, picture) of one picture."""
        return self.from_modality.read(row["image"]), self.to_modality.read(row["image"])

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        """A picture of rectangles, uint8 (32, 32, 3)."""
        return {"image": draw_picture(rng, 32)}

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        """`edge_error`: mean difference between the edges of a result and those asked for, both in [0, 1].

        Colours are not compared with the truth's: the edges leave them open.
        """
        edges = self.from_modality
        found = edges.collate([edges.read(result) for result in results])["edges"]
        wanted = edges.collate(sources)["edges"]
        return {"edge_error": float((found - wanted).abs().mean())}

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        """The same picture for all edges: one of the training data."""
        first = next(iter(examples), None)
        return None if first is None else ("any picture", [first] * len(truths))
