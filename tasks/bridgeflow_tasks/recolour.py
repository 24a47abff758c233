"""Recolouring: the flow starts from a picture, and words say what of it is to have another colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bridgeflow.conditioned import Conditioned
from bridgeflow.data.choices import read_drawn
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item
from bridgeflow.task import ModalityUse, Task
from bridgeflow_plugins.blocks.judge import Judge, Seen
from bridgeflow_plugins.blocks.recolouring import Instruction, draw_change, parse_instruction
from bridgeflow_plugins.blocks.render import render
from bridgeflow_plugins.blocks.scene import draw_scene
from bridgeflow_plugins.image_latent.metrics import psnr
from bridgeflow_plugins.image_latent.pixels import Pixels, to_images

CHANGED = 8
"""Levels, of 255, by which a pixel differs that belongs to what has changed."""
NEAR = 0.1
"""Distance, as a share of the picture's width, within which two pictures show the same solid; twice as far from the
middle of what has changed."""


class Recolour(Task):
    """A picture in which something has another colour, as words ask for it; the rest stays as it is."""

    summary = "a picture with something in another colour, as words ask for it"
    source = ModalityUse("image_latent")
    conditions = {"text": ModalityUse("text", {"codec": {"name": "encoder"}})}
    target = ModalityUse("image_latent")
    columns = {
        "image": "a picture",
        "text": "what is to change, or a list of sentences of which one is drawn each time",
        "edited": "the picture after the change",
    }
    holds = {"edited": "target"}
    better = {
        "changes_made": "higher",
        "others_kept": "higher",
        "psnr": "higher",
        "kept_psnr": "higher",
    }
    default_recipe = "recolour/blocks"

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(picture and words, picture after the change). Raises BridgeflowError where the pictures differ in size."""
        text = self.from_modality.conditions["text"]
        words = read_drawn(row["text"], text.read, rng, "sentences")
        source = self.from_modality.read(Conditioned(row["image"], {"text": words}))
        before, after = source.start, self.to_modality.read(row["edited"])
        if before.shape != after.shape:
            sizes = [f"{own.shape[1]}x{own.shape[0]}" for own in (before, after)]
            raise BridgeflowError(
                f"the picture has {sizes[0]} pixels and the edited one {sizes[1]}: give both in one size."
            )
        return source, after

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        """Of scenes of the blocks world first what its judge sees, as shares of the pictures: changes_made, where what
        was to change has the colour asked for and its own shape; others_kept, where every other solid is seen in its
        place, colour and shape, and no further one.

        psnr: of results to the pictures after the change, in dB; kept_psnr: of what was not to change alone, in dB over
        all pixels of all results, at most 60. Pictures are compared at the size of the results.
        """
        before = self._fitted([source.start for source in sources])
        after, results = self._fitted(truths), self._fitted(results)
        kept = [np.abs(b.astype(int) - a).max(-1) <= CHANGED for b, a in zip(before, after, strict=True)]
        errors = [(np.square(r.astype(float) - a)[k]) for r, a, k in zip(results, after, kept, strict=True)]
        mean = sum(float(own.sum()) for own in errors) / max(1, sum(own.size for own in errors))
        return {
            **seen_changes(results, before, after, [source.conditions["text"] for source in sources]),
            "psnr": float(np.mean([psnr(r, a) for r, a in zip(results, after, strict=True)])),
            "kept_psnr": 10 * math.log10(255**2 / max(mean, 255**2 / 1e6)),
        }

    def _fitted(self, pictures: Sequence[Item]) -> list[Pixels]:
        """Pictures at the model's size."""
        return [to_images(self.to_modality.collate([own])["pixels"])[0] for own in pictures]

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        """The pictures as they are."""
        return "nothing changed", [source.start for source in sources]

    def ceiling(
        self, truths: Sequence[Item], sources: Sequence[Item], rows: Sequence[Mapping[str, Any]]
    ) -> tuple[str, dict[str, float]] | None:
        """What the judge of the blocks world sees in the pictures after the change. None for words that are none of
        that world."""
        before, after = self._fitted([source.start for source in sources]), self._fitted(truths)
        figures = seen_changes(after, before, after, [source.conditions["text"] for source in sources])
        return ("real pictures", figures) if figures else None

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        """A scene of the blocks world and a change of it, uint8 (64, 64, 3)."""
        scene = draw_scene(int(rng.integers(2**32)), "train", 0)
        instruction, after = draw_change(scene, rng)
        return {"image": render(scene, 64)[0], "text": str(instruction), "edited": render(after, 64)[0]}


def seen_changes(
    results: Sequence[Pixels], before: Sequence[Pixels], after: Sequence[Pixels], words: Sequence[str]
) -> dict[str, float]:
    """`changes_made` and `others_kept`, see `Recolour.metrics`; nothing where words are none of the blocks world.

    before, after: the pictures without the change and with it, whose difference says where it is.
    """
    asked = [parse_instruction(own) for own in words]
    if not asked or any(own is None for own in asked):
        return {}
    judge = Judge.shipped()
    each = zip(judge(results), judge(after), before, after, asked, strict=True)
    found = [_seen(seen, due, _middle(b, a), own) for seen, due, b, a, own in each if own is not None]
    return {
        "changes_made": float(np.mean([made for made, _ in found])),
        "others_kept": float(np.mean([kept for _, kept in found])),
    }


def _middle(before: Pixels, after: Pixels) -> tuple[float, float]:
    """Where two pictures differ, across and down, from 0 to 1."""
    changed = np.abs(before.astype(int) - after).max(-1) > CHANGED
    down, across = np.nonzero(changed)
    if not len(down):
        return 0.5, 0.5
    return float(across.mean() + 0.5) / changed.shape[1], float(down.mean() + 0.5) / changed.shape[0]


def _seen(
    seen: Sequence[Seen], due: Sequence[Seen], middle: tuple[float, float], asked: Instruction
) -> tuple[bool, bool]:
    """Whether the change is seen, and whether everything else is: what is due but for the solid nearest to the change,
    and no more."""
    # Of what has the colour and shape asked for there is one in the scene. The middle of its pixels is not that of the
    # solid: a cone's lies lower, and one that is half hidden has fewer.
    asked_for = (asked.wanted, asked.shape)
    one = _nearest([own for own in seen if (own.colour, own.shape) == asked_for], middle)
    made = one is not None and _distance(one, middle) < 2 * NEAR
    changed = _nearest([own for own in due if (own.colour, own.shape) == asked_for] or due, middle)
    others = [own for own in due if own is not changed]
    kept = len(seen) == len(due)
    for other in others:
        same = _nearest(seen, (other.across, other.down))
        near = same is not None and _distance(same, (other.across, other.down)) < NEAR
        kept = kept and same is not None and near and (same.colour, same.shape) == (other.colour, other.shape)
    return made, kept


def _distance(one: Seen, place: tuple[float, float]) -> float:
    return math.hypot(one.across - place[0], one.down - place[1])


def _nearest(seen: Sequence[Seen], place: tuple[float, float]) -> Seen | None:
    return min(seen, key=lambda one: _distance(one, place), default=None)
