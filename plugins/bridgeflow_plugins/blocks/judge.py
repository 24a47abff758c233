"""The judge of pictures of the blocks world: which solids a picture shows, whoever drew it.

A small network that was trained on rendered scenes of a seed that no recipe uses, `make train-judge`, and on what is no
scene: blobs, noise, and averages of pictures. It tells a coloured blob from a solid by giving it no shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.blocks.judge_network import CELLS, MIDDLE, SIDE, UNCLEAR, JudgeNetwork, Maps
from bridgeflow_plugins.blocks.solids import COLOURS, SHAPES, SIZES

Pixels = npt.NDArray[np.uint8]

WEIGHTS = Path(__file__).with_name("judge.safetensors")
SEEN = 0.4
"""Heat from which on a solid counts as seen."""
CLEAR = 0.5
"""Probability from which on a shape counts as told."""
BATCH = 64
_NOT_KEPT = "num_batches_tracked"
"""Tensors that count the steps of training, which a file of the judge leaves out."""
_REMEMBERED = 8192
"""Pictures whose solids are kept: metrics ask for the same ones again and again."""


@dataclass(frozen=True)
class Seen:
    """A solid that a picture shows."""

    size: str
    colour: str
    shape: str | None
    """None for a blob: something of that colour stands there, but no shape can be told."""
    across: float
    down: float
    """Its middle in the picture, from 0 at the left and the top to 1."""
    place: tuple[float, float]
    """Where it stands in the view: metres to the right, and metres ahead of the camera."""
    confidence: float
    """From 0 to 1: that there is a solid at all."""


class Judge:
    """Sees solids in pictures. Not for photographs: it knows the blocks world alone."""

    def __init__(self, network: JudgeNetwork) -> None:
        self._network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._remembered: dict[bytes, list[Seen]] = {}

    @classmethod
    def shipped(cls) -> Judge:
        """The judge that is installed with bridgeflow, read once.

        Raises BridgeflowError where its weights are missing or damaged.
        """
        return _shipped(WEIGHTS)

    @classmethod
    def load(cls, path: Path) -> Judge:
        """The judge of a safetensors file.

        Raises BridgeflowError where the file is missing, damaged or of another network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        network = JudgeNetwork()
        state = {name: own for name, own in network.state_dict().items() if name.endswith(_NOT_KEPT)}
        try:
            network.load_state_dict({**state, **{name: own.float() for name, own in load_file(path).items()}})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise BridgeflowError(
                f"the judge of blocks pictures cannot be read from {path}: install bridgeflow anew, or make the file "
                "with make train-judge."
            ) from error
        return cls(network)

    def __call__(self, pictures: Sequence[Pixels] | Pixels) -> list[list[Seen]]:
        """The solids of each picture, uint8 (N, H, W, 3) or a list of (H, W, 3), from left to right.

        Pictures of another size than 64 x 64 are resized.
        """
        keys = [hashlib.blake2b(np.ascontiguousarray(own).tobytes(), digest_size=16).digest() for own in pictures]
        new = {key: at for at, key in enumerate(keys) if key not in self._remembered}
        if len(self._remembered) + len(new) > _REMEMBERED:
            known = {key: self._remembered[key] for key in keys if key in self._remembered}
            self._remembered = known
        wanted = list(new.items())
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            maps = self._look(torch.cat([as_input(pictures[at]) for _, at in part]))
            self._remembered.update(zip((key for key, _ in part), solids(maps), strict=True))
        return [list(self._remembered[key]) for key in keys]

    @torch.no_grad()
    def _look(self, batch: Tensor) -> Maps:
        found: Maps = self._network(batch.contiguous(memory_format=torch.channels_last))
        return found


@lru_cache(maxsize=1)
def _shipped(path: Path) -> Judge:
    return Judge.load(path)


def as_input(picture: Pixels) -> Tensor:
    """uint8 (H, W, 3) to (1, 3, 64, 64) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    if pixels.shape[-2:] != (SIDE, SIDE):
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
    return pixels / 127.5 - 1


def solids(maps: Maps) -> list[list[Seen]]:
    """What the maps of each picture tell of, from left to right."""
    heat = maps.heat.sigmoid()
    peaks = (heat == F.max_pool2d(heat, 3, stride=1, padding=1)) & (heat >= SEEN)
    seen: list[list[Seen]] = [[] for _ in range(len(heat))]
    batch, _, rows, columns = peaks.nonzero(as_tuple=True)
    fields = [own[batch, :, rows, columns] for own in maps]
    _, offset, colour, shape, size, place = fields
    confidence = heat[batch, 0, rows, columns].tolist()
    sure, kind = shape.softmax(1).max(1)
    middle = torch.stack([columns, rows], 1) + 0.5 + offset
    for at, owner in enumerate(batch.tolist()):
        told = kind[at].item() != UNCLEAR and sure[at].item() >= CLEAR
        right, ahead = place[at].tolist()
        across, down = (middle[at] / CELLS).tolist()
        seen[owner].append(
            Seen(
                size=SIZES[int(size[at].argmax())],
                colour=COLOURS[int(colour[at].argmax())],
                shape=SHAPES[int(kind[at])] if told else None,
                across=across,
                down=down,
                place=(right, ahead + MIDDLE),
                confidence=confidence[at],
            )
        )
    return [sorted(own, key=lambda one: one.across) for own in seen]


def half_precision(network: JudgeNetwork) -> dict[str, Any]:
    """The tensors that a file of the judge holds, in fp16."""
    kept = network.state_dict().items()
    return {name: own.half().contiguous() for name, own in kept if not name.endswith(_NOT_KEPT)}
