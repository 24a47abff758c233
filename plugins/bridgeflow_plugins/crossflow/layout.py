"""What a published state dict is a state dict of, read from its keys and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from bridgeflow.errors import BridgeflowError

Shapes = Mapping[str, tuple[int, ...]]

FACTOR = 8
"""Pixels along each side of a cell of the latent, in the autoencoder of the published networks."""


@dataclass(frozen=True)
class StageLayout:
    """One stage of a DiMR, as `bridgeflow.nn.dimr.StageSettings` has it but for its heads."""

    kind: Literal["transformer", "convnext"]
    width: int
    hidden: int
    blocks: int
    patch: int


@dataclass(frozen=True)
class DiMRLayout:
    """The stages, coarsest first."""

    stages: tuple[StageLayout, ...]


@dataclass(frozen=True)
class DiTLayout:
    """Sizes of a DiT but for its heads."""

    width: int
    depth: int
    hidden: int
    patch: int
    time_features: int


@dataclass(frozen=True)
class EncoderLayout:
    """Sizes of the text variational encoder but for its heads. width: of the text encoder's features."""

    tokens: int
    width: int
    compress: int | None
    depth: int
    narrowings: int
    hidden: int
    tail: Literal["linear", "conv"]

    @property
    def inner(self) -> int:
        """Width of the layers that halve nothing."""
        return self.compress or self.width


@dataclass(frozen=True)
class Layout:
    """A whole network. channels, side: of the latent, (channels, side, side)."""

    network: DiMRLayout | DiTLayout
    encoder: EncoderLayout
    channels: int
    side: int

    @property
    def structure(self) -> tuple[object, ...]:
        """What the names of keys tell without their shapes: parts, their kinds and how many there are."""
        network, encoder = self.network, self.encoder
        if isinstance(network, DiMRLayout):
            parts: tuple[object, ...] = tuple((stage.kind, stage.blocks) for stage in network.stages)
        else:
            parts = (network.depth,)
        return (*parts, encoder.depth, encoder.narrowings, encoder.compress is None, encoder.tail)

    @property
    def published_as(self) -> str | None:
        """Which of the five published networks it is; None for any other."""
        return next((name for name, layout in PUBLISHED.items() if layout == self), None)

    @property
    def title(self) -> str:
        """What messages call it."""
        kind = "DiMR" if isinstance(self.network, DiMRLayout) else "DiT"
        if self.published_as is not None:
            words = "T5" if self.encoder.compress else "CLIP"
            return f"CrossFlow's {FACTOR * self.side}px {words} {kind}"
        return (
            f"a CrossFlow {kind} of sizes that were never published (latent {self.channels}x{self.side}x{self.side}, "
            f"text {self.encoder.tokens}x{self.encoder.width})"
        )


def _published(side: int, text: Literal["clip", "t5"], tail: Literal["linear", "conv"], kind: str) -> Layout:
    network: DiMRLayout | DiTLayout = DiTLayout(1280, 36, 5120, 2, 256)
    if kind == "dimr":
        sizes = (("transformer", 1024, 65), ("convnext", 512, 33), ("convnext", 256, 33))[: 2 if side == 32 else 3]
        patches = [2**n for n in reversed(range(len(sizes)))]
        network = DiMRLayout(
            tuple(
                StageLayout("transformer" if name == "transformer" else "convnext", width, 2 * width, blocks, patch)
                for (name, width, blocks), patch in zip(sizes, patches, strict=True)
            )
        )
    width, compress = (768, None) if text == "clip" else (4096, 1024)
    return Layout(network, EncoderLayout(77, width, compress, 11, 3, 1024, tail), 4, side)


PUBLISHED = {
    "256px_clip_dimr": _published(32, "clip", "linear", "dimr"),
    "256px_t5_dimr": _published(32, "t5", "linear", "dimr"),
    "512px_clip_dimr": _published(64, "clip", "conv", "dimr"),
    "512px_t5_dimr": _published(64, "t5", "conv", "dimr"),
    "512px_t5_dit": _published(64, "t5", "conv", "dit"),
}


class _Reader:
    """Shapes by key, with a sentence for each that is not there or has another rank than it must."""

    def __init__(self, shapes: Shapes, file: str) -> None:
        self.shapes = shapes
        self.file = file

    def of(self, key: str, rank: int) -> tuple[int, ...]:
        shape = self.shapes.get(key)
        if shape is None:
            raise BridgeflowError(
                f"{self.file} lacks the tensor {key!r} of a CrossFlow network: give the whole state dict."
            )
        if len(shape) != rank or 0 in shape:
            raise BridgeflowError(
                f"{self.file} holds {key!r} with shape {shape}, where {rank} axes were expected: "
                "give the file as it was published."
            )
        return shape

    def count(self, prefix: str) -> int:
        """How many of the numbers 0, 1, 2, ... follow `prefix` in the keys. What comes after a gap is foreign, and
        builds nothing."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        found = {m[1] for key in self.shapes if (m := pattern.match(key))}
        return next(number for number in range(len(found) + 1) if str(number) not in found)

    def side(self, key: str, cells: int, patch: int) -> int:
        side = math.isqrt(cells)
        if side * side != cells:
            raise BridgeflowError(
                f"{self.file} has {cells} positions in {key!r}, which are no square grid: only square ones are read."
            )
        return side * patch


def read_layout(shapes: Shapes, file: str) -> Layout:
    """The layout of a state dict with those shapes; `file` is what messages call it.

    Raises BridgeflowError where the keys are not those of a CrossFlow network or one that tells a size is missing.
    Whether every key is there with its shape is left to whoever builds the network.
    """
    reader = _Reader(shapes, file)
    if "stages.0.input_layer.1.weight" in shapes:
        network, channels, side = _dimr(reader)
    elif "x_embedder.proj.weight" in shapes:
        network, channels, side = _dit(reader)
    else:
        raise BridgeflowError(
            f"{file} holds another network than CrossFlow's: its first keys are {first_keys(shapes)}, where "
            "'stages.0.input_layer.1.weight' or 'x_embedder.proj.weight' was expected."
        )
    return Layout(network, _encoder(reader), channels, side)


def first_keys(keys: Iterable[object], most: int = 3) -> str:
    """The first few keys for a message."""
    shown = [repr(key) for key, _ in zip(keys, range(most), strict=False)]
    return ", ".join(shown) or "none"


def _dimr(reader: _Reader) -> tuple[DiMRLayout | DiTLayout, int, int]:
    stages = []
    channels = side = 0
    for k in range(reader.count("stages.")):
        own = f"stages.{k}."
        width, channels, patch, _ = reader.of(f"{own}input_layer.1.weight", 4)
        positions = f"{own}input_layer.3.position_embeddings.weight"
        side = reader.side(positions, reader.of(positions, 2)[0], patch)
        transformer = f"{own}blocks.0.block1.query_key_value.weight" in reader.shapes
        hidden = reader.of(f"{own}blocks.0.block2.w0.weight", 2)[0]
        blocks = reader.count(f"{own}blocks.")
        stages.append(StageLayout("transformer" if transformer else "convnext", width, hidden, blocks, patch))
    return DiMRLayout(tuple(stages)), channels, side


def _dit(reader: _Reader) -> tuple[DiMRLayout | DiTLayout, int, int]:
    width, channels, patch, _ = reader.of("x_embedder.proj.weight", 4)
    side = reader.side("pos_embed", reader.of("pos_embed", 3)[1], patch)
    hidden = reader.of("blocks.0.mlp.fc1.weight", 2)[0]
    features = reader.of("t_embedder.mlp.0.weight", 2)[1]
    return DiTLayout(width, reader.count("blocks."), hidden, patch, features), channels, side


def _encoder(reader: _Reader) -> EncoderLayout:
    own = "context_encoder."
    compress = None
    if f"{own}compressor.fc1.weight" in reader.shapes:
        compress, width = reader.of(f"{own}compressor.fc1.weight", 2)
    depth, narrowings = reader.count(f"{own}layers."), reader.count(f"{own}reduction_layers.")
    first = f"{own}layers.0." if depth or not narrowings else f"{own}reduction_layers.0."
    inner = reader.of(f"{first}attn.W_Q.weight", 2)[1]
    hidden = reader.of(f"{first}feed_forward.ffn_1.weight", 2)[0]
    tail: Literal["linear", "conv"] = "conv" if f"{own}adaptor.fc1.weight" in reader.shapes else "linear"
    flat = reader.of(f"{own}adaptor.fc1.weight" if tail == "conv" else f"{own}linear.weight", 2)[1]
    tokens = flat // max(1, inner >> narrowings)
    return EncoderLayout(tokens, width if compress else inner, compress, depth, narrowings, hidden, tail)
