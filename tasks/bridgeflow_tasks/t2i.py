"""Text to image: the flow starts from the words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from bridgeflow.data.choices import read_drawn
from bridgeflow.modality import Item
from bridgeflow.task import ModalityUse, Task, Thorough
from bridgeflow_plugins.blocks.caption import parse_caption
from bridgeflow_plugins.blocks.judge_scores import picture_scores
from bridgeflow_plugins.image_latent.distances import Distances
from bridgeflow_plugins.image_latent.perceptual import CLIP, INCEPTION, clip_scores, fid, load_judges
from bridgeflow_plugins.image_latent.pixels import Pixels, to_images
from bridgeflow_tasks.scenes import made_up_scene


class TextToImage(Task):
    """A caption becomes a picture."""

    summary = "a picture from words"
    source = ModalityUse("text", {"codec": {"name": "encoder"}})
    target = ModalityUse("image_latent")
    columns = {
        "image": "a picture",
        "text": "a caption, or a list of captions of which one is drawn each time",
    }
    better = {"object_accuracy": "higher", "all_correct": "higher", "clip_score": "higher"}
    judges = {"clip": CLIP, "inception": INCEPTION}
    default_recipe = "t2i/blocks"
    default_model = "t2i/blocks-full"

    def judge_by(self, weights: Mapping[str, str]) -> None:
        """Names the weights that `thorough` judges by, and loads them. Raises UsageError where the task has no such
        judge, and BridgeflowError where there is no network of that kind at a place."""
        super().judge_by(weights)
        load_judges(weights)

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(caption, picture)."""
        caption = read_drawn(row["text"], self.from_modality.read, rng, "captions")
        return caption, self.to_modality.read(row["image"])

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        """What the judge of the blocks world sees of the captions in the pictures, see `blocks.judge_scores`; nothing
        for other captions."""
        return picture_scores(results, sources)

    def thorough(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> Thorough | None:
        """The distances between results and the pictures of the data (see `Distances`), and the CLIP score and FID
        where their weights are given. All pictures are brought to the model's size first, as for training."""
        # The results of a baseline are pictures of the data as well.
        results, truths = self._fitted(results), self._fitted(truths)
        distances = Distances(results, truths)
        once, notes = dict(distances.once), list(distances.notes)
        if "inception" in self.weights:
            found, more = fid(results, truths, self.weights["inception"])
            once, notes = {**once, **found}, [*notes, *more]
        scores = clip_scores(results, sources, self.weights["clip"]) if "clip" in self.weights else []

        def figures(chosen: Sequence[int]) -> dict[str, float]:
            score = {"clip_score": float(np.mean([scores[i] for i in chosen]))} if scores else {}
            return {**score, **distances.figures(chosen)}

        return Thorough(figures, once, notes)

    def _fitted(self, pictures: Sequence[Item]) -> list[Pixels]:
        """Pictures as training sees them, one by one: a batch of all would take four times their memory."""
        return [to_images(self.to_modality.collate([own])["pixels"])[0] for own in pictures]

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        """Pictures of the training data, whatever the caption: what chance gets right. None for captions that the
        judge does not know."""
        pictures = list(islice(examples, len(truths)))
        if not pictures or any(parse_caption(caption) is None for caption in sources):
            return None
        return "pictures of other captions", list(islice(cycle(pictures), len(truths)))

    def ceiling(
        self, truths: Sequence[Item], sources: Sequence[Item], rows: Sequence[Mapping[str, Any]]
    ) -> tuple[str, dict[str, float]] | None:
        """What the judge of the blocks world sees in the pictures of the data. None for captions that it does not
        know."""
        figures = picture_scores(truths, sources)
        return ("real pictures", figures) if figures else None

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        """A scene of the blocks world: `image` uint8 (64, 64, 3) and its caption as `text`."""
        scene = made_up_scene(rng)
        return {"image": scene["image"], "text": scene["text"]}
