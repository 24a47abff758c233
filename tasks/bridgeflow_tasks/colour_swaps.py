"""`python -m bridgeflow_tasks.colour_swaps MODEL`: how often arithmetic with words paints a solid anew.

"a large red cube" + "a large blue cone" - "a large red cone" should be a large blue cube: the flow starts from a sum
of encoded captions (CrossFlow, arXiv 2412.15213, section 4), and the judge of the blocks world says what came of it.
Beside it stands the prompt of the sum itself, which bounds what the sum can reach.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bridgeflow import api
from bridgeflow.errors import BridgeflowError
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Item
from bridgeflow.runtime.console import Progress
from bridgeflow_plugins.blocks.judge import Judge
from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES

COUNT = 200


@dataclass(frozen=True)
class Swap:
    """A solid, the colour it should change to, and the shape of another solid that carries both colours."""

    size: str
    shape: str
    colour: str
    wanted: str
    carrier: str

    def caption(self, colour: str, shape: str) -> str:
        """The caption of one solid of this size."""
        return f"a {self.size} {colour} {shape}"

    @property
    def start(self) -> str:
        """The caption before the swap."""
        return self.caption(self.colour, self.shape)

    @property
    def direct(self) -> str:
        """The caption that the sum stands for."""
        return self.caption(self.wanted, self.shape)

    @property
    def plus(self) -> str:
        """The caption that is added."""
        return self.caption(self.wanted, self.carrier)

    @property
    def minus(self) -> str:
        """The caption that is taken away."""
        return self.caption(self.colour, self.carrier)


def swaps(count: int, seed: int = 0) -> list[Swap]:
    """`count` swaps drawn from a seed, the same on every machine."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        colour, wanted = rng.choice(len(COLOURS), 2, replace=False)
        shape, carrier = rng.choice(len(SHAPES), 2, replace=False)
        names, shapes = list(COLOURS), list(SHAPES)
        size = list(SIZES)[int(rng.integers(len(SIZES)))]
        found.append(Swap(size, shapes[shape], names[colour], names[wanted], shapes[carrier]))
    return found


def confirmed(pictures: Sequence[Item], captions: Sequence[tuple[str, str]], judge: Judge) -> list[bool]:
    """Whether each picture shows a solid of that (colour, shape)."""
    return [
        any((solid.colour, solid.shape) == wanted for solid in seen)
        for seen, wanted in zip(judge(pictures), captions, strict=True)
    ]


def score(pipeline: Pipeline, count: int, seed: int, progress: Progress) -> dict[str, float]:
    """Shares of `count` swaps that the judge confirms.

    swap: the sum shows the shape in the colour wanted. direct: so does the prompt of the sum. words: so does the sum
    with the colours alone, start + "blue" - "red". unchanged: the sum still shows the colour before. Raises
    BridgeflowError where the flow starts from noise.
    """
    judge, drawn = Judge.shipped(), swaps(count, seed)
    wanted = [(own.wanted, own.shape) for own in drawn]
    direct = [own[0] for own in pipeline.generate([own.direct for own in drawn], seed=seed)]
    sums, words = [], []
    for done, own in enumerate(drawn):
        sums.append(pipeline.combine([own.start], [own.plus], [own.minus], seed=seed)[0][0])
        words.append(pipeline.combine([own.start], [own.wanted], [own.colour], seed=seed)[0][0])
        progress(done + 1, count, "swapping colours")
    found = {
        "swap": confirmed(sums, wanted, judge),
        "direct": confirmed(direct, wanted, judge),
        "words": confirmed(words, wanted, judge),
        "unchanged": confirmed(sums, [(own.colour, own.shape) for own in drawn], judge),
    }
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(arguments: list[str]) -> int:
    """Prints the shares as JSON."""
    if len(arguments) not in (1, 2) or arguments[0].startswith("-") or not "".join(arguments[1:] or ["1"]).isdigit():
        print("usage: python -m bridgeflow_tasks.colour_swaps MODEL [COUNT]", file=sys.stderr)
        return 2
    try:
        pipeline = api.load(arguments[0])
        with Progress() as progress:
            found = score(pipeline, int(arguments[1]) if len(arguments) > 1 else COUNT, 0, progress)
    except BridgeflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
