"""Scenes of the blocks world of which one solid is to have another colour: the picture, the words that say so, and the
picture after the change."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bridgeflow.data.rows import Rows, Split
from bridgeflow.modality import Progress
from bridgeflow_plugins.blocks import Blocks
from bridgeflow_plugins.blocks.render import render
from bridgeflow_plugins.blocks.scene import SPLIT_NUMBERS, Scene, Solid, draw_scene
from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES

VERSION = 1
"""Raised whenever the same scene would get other words or another change."""


class Instruction(NamedTuple):
    """What is to have another colour. Size and colour are None where the words leave them out."""

    size: str | None
    colour: str | None
    shape: str
    wanted: str

    def __str__(self) -> str:
        named = " ".join(filter(None, (self.size, self.colour, self.shape)))
        return f"make the {named} {self.wanted}"

    def means(self, solid: Solid) -> bool:
        """Whether the words suit a solid."""
        own = (solid.size, solid.colour, solid.shape)
        return all(said in (None, is_so) for said, is_so in zip(self[:3], own, strict=True))


_SENTENCE = re.compile(
    rf"make the (?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)}) ({'|'.join(COLOURS)})"
)


def parse_instruction(text: str) -> Instruction | None:
    """What words ask for; None where they are none of this world. Upper case and spare white space are forgiven."""
    found = _SENTENCE.fullmatch(" ".join(text.lower().split()))
    return None if found is None else Instruction(*found.groups())


def draw_change(scene: Scene, rng: np.random.Generator) -> tuple[Instruction, Scene]:
    """A change of the colour of one solid, and the scene after it. The words mean no other solid, and no two solids of
    one shape get the same colour."""
    place = int(rng.integers(len(scene.solids)))
    solid = scene.solids[place]
    taken = {own.colour for own in scene.solids if own.shape == solid.shape}
    wanted = str(rng.choice([colour for colour in COLOURS if colour not in taken]))
    named = [
        Instruction(size, colour, solid.shape, wanted) for size in (None, solid.size) for colour in (None, solid.colour)
    ]
    clear = [own for own in named if sum(map(own.means, scene.solids)) == 1]
    instruction = clear[int(rng.integers(len(clear)))]
    solids = [replace(own, colour=wanted) if own is solid else own for own in scene.solids]
    return instruction, replace(scene, solids=tuple(solids))


class RecolouredRows:
    """Rows of `image` and `edited`, uint8 (H, W, 3), and `text`, the words that lead from one to the other."""

    columns: tuple[str, ...] = ("image", "text", "edited")

    def __init__(self, scenes: Rows, seed: int, split: Split, resolution: int) -> None:
        self.scenes, self.seed, self.split, self.resolution = scenes, seed, split, resolution
        self.fingerprint = f"{scenes.fingerprint}-recoloured-{VERSION}"
        self.description = f"{len(scenes):,} scenes, each with a change of colour"

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.scenes[index]["image"]
        index %= len(self)
        rng = np.random.default_rng([self.seed, SPLIT_NUMBERS[self.split], index, VERSION])
        instruction, after = draw_change(draw_scene(self.seed, self.split, index), rng)
        return {"image": image, "text": str(instruction), "edited": render(after, self.resolution)[0]}


class RecolouredBlocks(Blocks):
    """Scenes as of `blocks`, each with words that ask for another colour of one of its solids.

    Columns: `image` (H, W, 3) uint8; `text`, such as "make the small cube red"; `edited` (H, W, 3) uint8, the scene
    after that change, rendered as it is read.
    """

    summary: ClassVar[str] = "coloured solids, words that ask for another colour, and the picture after it (endless)"
    known_columns: ClassVar[tuple[str, ...]] = RecolouredRows.columns

    def open(self, split: Split, progress: Progress | None = None) -> Rows:
        """The rows of a split; raises as `Blocks.open`."""
        return RecolouredRows(super().open(split, progress), self.seed, split, self.resolution)

    def open_first(self, count: int, progress: Progress | None = None) -> Rows:
        """The first training rows; raises as `Blocks.open`."""
        return RecolouredRows(super().open_first(count, progress), self.seed, "train", self.resolution)
