"""Captioning: the flow starts from the picture and ends in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bridgeflow.data.choices import read_drawn
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item
from bridgeflow.task import ModalityUse, Task, Thorough
from bridgeflow_plugins.blocks.caption import blocks_scores
from bridgeflow_plugins.text.captioning import CaptionScorer
from bridgeflow_plugins.text.metrics import exact_match, token_f1
from bridgeflow_tasks.captions import all_captions
from bridgeflow_tasks.scenes import made_up_scene


class Caption(Task):
    """A picture becomes a line of words."""

    summary = "words from a picture"
    source = ModalityUse("image_latent")
    target = ModalityUse("text", {"codec": {"name": "autoencoder"}})
    columns = {
        "image": "a picture",
        "text": "a caption, or a list of captions of which one is drawn each time",
    }
    better = {"token_f1": "higher", "exact_match": "higher"}
    default_recipe = "caption/blocks"
    default_model = "caption/blocks-full"

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(picture, caption)."""
        return self.from_modality.read(row["image"]), read_drawn(row["text"], self.to_modality.read, rng, "captions")

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        """A scene of the blocks world: `image` uint8 (64, 64, 3) and its caption as `text`."""
        scene = made_up_scene(rng)
        return {"image": scene["image"], "text": scene["text"]}

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        """Share of captions that are right to the word, and the F1 of their words, by the best of a row's captions; on
        captions of the blocks world also how much of what they name is right, see `blocks_scores`."""
        references = self._references(truths, rows)
        figures = {"exact_match": exact_match(results, references), "token_f1": token_f1(results, references)}
        return {**figures, **blocks_scores(results, truths)}

    def thorough(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> Thorough | None:
        """BLEU, METEOR, ROUGE-L and CIDEr, against all captions of a row."""
        try:
            scorer = CaptionScorer(results, self._references(truths, rows))
        except BridgeflowError as error:
            return Thorough(lambda chosen: {}, {}, [str(error)])
        return Thorough(scorer.figures, scorer.once(), scorer.notes)

    def _references(self, truths: Sequence[Item], rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """All captions of each row, of which a truth is one; the truths themselves where no rows are given."""
        if not rows:
            return [[truth] for truth in truths]
        return [all_captions(row["text"], self.to_modality.read) for row in rows]

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        """The most frequent caption of the training data, whatever the picture."""
        counted = Counter(examples).most_common(1)
        return ("most frequent caption", [counted[0][0]] * len(truths)) if counted else None
