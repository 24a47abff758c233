"""The importer of published CrossFlow checkpoints (arXiv 2412.15213, text to image)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints.importer import Importer, Recognised
from bridgeflow.checkpoints.tensor_file import StoredTensor, is_finite
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.settings import Settings
from bridgeflow_plugins.crossflow.keys import Head, KeyMap
from bridgeflow_plugins.crossflow.layout import PUBLISHED, DiMRLayout, DiTLayout, Layout, first_keys, read_layout
from bridgeflow_plugins.crossflow.pretrained import CLIP, VAE, Pretrained, locate, pixels_per_cell, text_encoder
from bridgeflow_plugins.crossflow.recipe import Tower, recipe_tree
from bridgeflow_plugins.crossflow.state_dict import read_state_dict

TOWER_KEYS = ("open_clip.", "open_clip_output.")
"""What the keys of the image tower, its head and its logit scale start with."""

TOWER_PARTS = ("open_clip.visual.trunk.", "open_clip.logit_scale", "open_clip_output.")
"""What is left out of them without a look at each; any other is foreign."""

FEW = 12
"""Tensors of other shapes than a published network's, up to which a file with its keys is that network, spoilt."""

PARTS = {
    "stages": "velocity network",
    "context_encoder": "text variational encoder",
    "open_clip": "image tower",
    "open_clip_output": "image tower's head",
}
"""Words for the first part of a key; a DiT has no such part of its own."""

EXAMPLE = "a corgi in a red hat"


class CrossFlowOptions(Settings):
    """Options of the importer of CrossFlow checkpoints."""

    text_encoder: str | None = None
    """Folder or hub name of the frozen text encoder; openai/clip-vit-large-patch14 or google/t5-v1_1-xxl by default,
    whichever the file was trained with."""
    vae: str | None = None
    """Folder or hub name of the image autoencoder; stabilityai/sd-vae-ft-ema by default."""
    keep_tower: bool = False
    """Keep the image tower, which only training needs."""
    tower: str = "vit_large_patch16_siglip_256"
    """Name in timm of the image tower that is kept."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of matrices and kernels in the checkpoint; vectors stay fp32."""
    heads: int | None = Field(None, ge=1)
    """Attention heads of a velocity network of unpublished width; 64 features each by default."""
    encoder_heads: int | None = Field(None, ge=1)
    """Attention heads of a text variational encoder of unpublished width; 8 by default where that divides."""


class CrossFlowImporter(Importer):
    """Published CrossFlow text-to-image files (DiMR and DiT), and files of other sizes of the same form."""

    summary = "published CrossFlow text-to-image checkpoints (.pth)"
    Options = CrossFlowOptions
    options: CrossFlowOptions

    def check(self) -> None:
        """Refuses a text encoder or an autoencoder that is not there."""
        self._text()
        self._vae()

    def _text(self) -> Pretrained | None:
        given = self.options.text_encoder
        return None if given is None else locate("--text-encoder", given, CLIP, "text_encoder")

    def _vae(self) -> Pretrained:
        return locate("--vae", self.options.vae, VAE, "vae")

    def recognise(self, file: Path) -> Recognised:
        """Which network the file holds, the recipe that builds it, and its tensors by our names."""
        name = repr(str(file))
        tensors = read_state_dict(file)
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        layout = read_layout(shapes, name)
        self._refuse_spoilt(layout, shapes, name)
        tower = self._tower(shapes, name)
        text, vae = text_encoder(self._text(), layout.encoder), self._vae()
        keys = key_map(layout, tower[2] if tower else _head(shapes))
        recipe = self._recipe(layout, text.path, vae, tower, name, self.options.heads, self.options.encoder_heads)
        kept = {key: tensor for key, tensor in tensors.items() if tower or not key.startswith(TOWER_PARTS)}
        refuse_others({key: shapes[key] for key in kept}, expected_shapes(recipe, layout, keys), name)
        return Recognised(
            title=layout.title,
            recipe=recipe,
            tensors=dict(self._stored(keys, key, tensor, name) for key, tensor in kept.items()),
            kept=parameters(kept),
            dropped=parameters({key: tensor for key, tensor in tensors.items() if key not in kept}),
            notes=self._notes(layout, recipe, text, vae, len(kept) < len(tensors)),
            example=EXAMPLE,
            facts={"published_as": layout.published_as, "keys_sha256": keys_digest(shapes)},
        )

    def _refuse_spoilt(self, layout: Layout, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
        """Refuses a file with the keys of a published network of which a few have other shapes: a size that is read
        from one of those would make all the others look wrong."""
        if layout.published_as is not None:
            return
        own = {key: shape for key, shape in shapes.items() if not key.startswith(TOWER_KEYS)}
        for published in PUBLISHED.values():
            if published.structure != layout.structure:
                continue
            # Heads have no shape, and those that are asked for are of the file's widths, not of these.
            recipe = self._recipe(published, text_encoder(None, published.encoder).path, self._vae(), None, name)
            expected = expected_shapes(recipe, published, key_map(published, _head(shapes)))
            if expected.keys() == own.keys() and sum(own[key] != shape for key, shape in expected.items()) <= FEW:
                refuse_others(own, expected, name)

    def _tower(self, shapes: Mapping[str, tuple[int, ...]], name: str) -> Tower | None:
        """Name, size in pixels and head of the image tower, where it is to be kept."""
        if not self.options.keep_tower:
            return None
        patch, cells = (
            shapes.get(f"open_clip.visual.trunk.{key}", ()) for key in ("patch_embed.proj.weight", "pos_embed")
        )
        if len(patch) != 4 or len(cells) != 3:
            raise BridgeflowError(f"{name} holds no image tower (open_clip.visual.trunk.*): leave --keep-tower out.")
        return self.options.tower, math.isqrt(cells[1]) * patch[2], _head(shapes)

    def _recipe(
        self,
        layout: Layout,
        text: str,
        vae: Pretrained,
        tower: Tower | None,
        name: str,
        heads: int | None = None,
        text_heads: int | None = None,
    ) -> Recipe:
        factor = pixels_per_cell(vae, layout)
        tree = recipe_tree(layout, text, vae.path, factor, self.options.precision, heads, text_heads, tower)
        kind = "dimr" if isinstance(layout.network, DiMRLayout) else "dit"
        own = layout.published_as or f"{factor * layout.side}px_{kind}"
        try:
            return recipes.resolve(tree, f"crossflow/{own}")
        except UsageError as error:
            raise BridgeflowError(f"{name} holds {layout.title}, which cannot be built: {error}") from error

    def _stored(self, keys: KeyMap, key: str, tensor: Tensor, name: str) -> tuple[str, StoredTensor]:
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise BridgeflowError(
                f"{name} holds {key!r} as {tensor.dtype} on {tensor.device.type}, where plain floating-point numbers "
                "were expected: give the file as it was published."
            )
        ours, laid_out = keys.to_ours(key, torch.empty(tensor.shape, device="meta"))
        narrow = self.options.precision == "bf16" and is_matrix(ours, laid_out)
        dtype = torch.bfloat16 if narrow else torch.float32
        return ours, StoredTensor(tuple(laid_out.shape), dtype, partial(_read, keys, key, tensor, dtype, name))

    def _notes(
        self, layout: Layout, recipe: Recipe, text: Pretrained, vae: Pretrained, dropped: bool
    ) -> tuple[str, ...]:
        notes = []
        if dropped:
            notes.append("the image tower is left out, since only training needs it; --keep-tower keeps it.")
        if layout.published_as is None and None in (self.options.heads, self.options.encoder_heads):
            encoder = recipe.keys.source_encoder.model_dump().get("heads")
            notes.append(
                f"a file does not tell attention heads: {_heads(recipe)} in the velocity network and {encoder} in the "
                "text variational encoder are taken; --heads and --encoder-heads say otherwise."
            )
        remote = [own.path for own in (text, vae) if own.config is None]
        if remote:
            notes.append(
                f"needed at run, and fetched from the Hugging Face hub then: {' and '.join(remote)}; --text-encoder "
                "and --vae name folders instead."
            )
        return tuple(notes)


def key_map(layout: Layout, head: Head) -> KeyMap:
    """The map of keys for a network."""
    if isinstance(layout.network, DiTLayout):
        return KeyMap("dit", layout.encoder.tail, head, layout.channels, layout.network.patch)
    return KeyMap("dimr", layout.encoder.tail, head)


def expected_shapes(recipe: Recipe, layout: Layout, keys: KeyMap) -> dict[str, tuple[int, ...]]:
    """Published key -> shape of every tensor that the recipe's bridge has; no memory is taken for it.

    Raises BridgeflowError where the recipe's parts do not fit one another.
    """
    source = LatentSpec((layout.encoder.tokens, layout.encoder.width), "sequence")
    target = LatentSpec((layout.channels, layout.side, layout.side), "grid")
    try:
        with torch.device("meta"):
            state = Bridge(recipe.keys, recipe.network, source, target).state_dict()
    except (ValueError, UsageError) as error:
        raise BridgeflowError(f"the file holds {layout.title}, which cannot be built: {error}") from error
    published = (keys.to_published(key, tensor) for key, tensor in state.items())
    return {key: tuple(tensor.shape) for key, tensor in published}


def refuse_others(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raises BridgeflowError where keys are foreign, missing or of another shape, naming the first three."""
    foreign = [key for key in shapes if key not in expected]
    missing = [key for key in expected if key not in shapes]
    others = [
        f"{key!r} has shape {shapes[key]}, not {shape}"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    fix = "give the file as it was published"
    if foreign:
        raise BridgeflowError(
            f"{name} holds {len(foreign)} tensors that a CrossFlow network of its size does not have, such as "
            f"{first_keys(foreign)}: {fix}."
        )
    if missing:
        shown = ", ".join(f"{key!r} {expected[key]}" for key in missing[:3])
        raise BridgeflowError(
            f"{name} lacks {len(missing)} of the {len(expected)} tensors of its network, such as {shown}: {fix}."
        )
    if others:
        raise BridgeflowError(
            f"{name} holds {len(others)} tensors of other shapes than its network's: {'; '.join(others[:3])}: {fix}."
        )


def is_matrix(key: str, tensor: Tensor) -> bool:
    """Whether one of our tensors is a weight matrix or kernel, which bf16 serves well, rather than a norm's gain, a
    bias or positions."""
    return tensor.ndim >= 2 and key.endswith(".weight") and ".norm" not in key


def parameters(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Numbers in the tensors, by part of the published network."""
    counts: dict[str, int] = {}
    for key, tensor in tensors.items():
        part = PARTS.get(key.partition(".")[0], "velocity network")
        counts[part] = counts.get(part, 0) + tensor.numel()
    return counts


def keys_digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """SHA-256 of the sorted lines `key<TAB>shape`: two files of one network have the same."""
    lines = "".join(f"{key}\t{shape}\n" for key, shape in sorted(shapes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _head(shapes: Mapping[str, tuple[int, ...]]) -> Head:
    return "conv" if "open_clip_output.conv1.weight" in shapes else "mlp"


def _heads(recipe: Recipe) -> object:
    network = recipe.network.model_dump()
    return network["heads"] if "heads" in network else network["stages"][0]["heads"]


def _read(keys: KeyMap, key: str, tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    value = keys.to_ours(key, tensor.detach())[1]
    if not is_finite(value):
        raise BridgeflowError(
            f"{name} is damaged ({key!r} holds numbers that are not finite): download it again, or give another file."
        )
    return value.to(dtype)
