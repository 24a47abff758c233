"""The objects that a recipe describes: modalities with their fitted codecs, the task, the bridge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints.tensor_file import is_finite
from bridgeflow.config.recipe import ResolvedRecipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Item, Modality, Progress
from bridgeflow.nn.source import DirectSource
from bridgeflow.registry.foreign import in_place
from bridgeflow.runtime import durable
from bridgeflow.task import Task

SIDES = ("source", "target")


@dataclass
class Assembly:
    """A task with its two modalities, ready to read, encode and decode."""

    recipe: ResolvedRecipe
    task: Task

    @property
    def source(self) -> Modality:
        """Where the flow starts."""
        return self.task.from_modality

    @property
    def target(self) -> Modality:
        """Where the flow ends."""
        return self.task.to_modality

    def modality(self, side: str) -> Modality:
        """The modality of a side, 'source' or 'target'."""
        return self.source if side == "source" else self.target

    def to(self, device: torch.device | str) -> Assembly:
        """Both modalities moved to a device."""
        self.source.to(device)
        self.target.to(device)
        return self

    def scored_by(self, recipe: ResolvedRecipe) -> Assembly:
        """The same modalities under a recipe with other data or options of the task."""
        return Assembly(recipe, recipe.task(recipe.options, self.source, self.target))

    def build_bridge(self) -> Bridge:
        """A bridge with fresh weights for these modalities' latents.

        Raises UsageError where the recipe's parts do not fit one another.
        """
        try:
            bridge = Bridge(self.recipe.recipe, self.recipe.network, self.source.latent, self.target.latent)
        except ValueError as error:
            raise UsageError(f"recipe {self.recipe.name!r}: {error}") from error
        if bridge.sees_observed and type(self.target).observed is Modality.observed:
            raise UsageError(
                f"recipe {self.recipe.name!r}: encoding.tower.name=timm looks at pixels, and the target "
                f"{self.recipe.task.target.name!r} shows none: set encoding.tower.name=tokens."
            )
        pieces = self.source.piece_latent
        if pieces != self.source.latent:
            starts_there = isinstance(bridge.source_encoder, DirectSource)
            if not starts_there or not bridge.network.takes(pieces.shape):
                raise UsageError(
                    f"recipe {self.recipe.name!r}: the source {self.recipe.task.source.name!r} runs on pieces of "
                    f"{pieces}, larger than the {self.source.latent} of training, which this network does not take: "
                    "leave their size at that of training (source.tile=null), or choose network.name=unet and a size "
                    "that its levels divide."
                )
        return bridge

    def sketch_bridge(self) -> Bridge:
        """A bridge without numbers, on torch's meta device, to see its shapes; a real one where a plugin's network
        looks at its numbers while it is built. Raises as `build_bridge`."""
        try:
            with torch.device("meta"):
                return self.build_bridge()
        except RuntimeError as error:
            if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
                return self.build_bridge()
            raise


def assemble(recipe: ResolvedRecipe, codecs: Mapping[str, Path] | None = None) -> Assembly:
    """The task and its modalities, with fitted codecs restored: those given, by side, else those that the recipe
    names."""
    with in_place(f"building the modalities and the task of the recipe {recipe.name!r}"):
        source = recipe.source(recipe.source_options)
        target = recipe.target(recipe.target_options)
        assembly = Assembly(recipe, recipe.task(recipe.options, source, target))
    given: Mapping[str, Path] = {side: Path(folder) for side, folder in recipe.recipe.codecs.items()}
    for side, folder in (given if codecs is None else codecs).items():
        restore_codec(assembly.modality(side), folder)
    share_codec(assembly)
    return assembly


def share_codec(assembly: Assembly) -> None:
    """Gives the source the target's fitted codec where both are set to the same one."""
    source, target = assembly.source, assembly.target
    codec = getattr(target.options, "codec", None)
    same = codec is not None and getattr(source.options, "codec", None) == codec
    if source.needs_fit and not target.needs_fit and same:
        source.restore(target.fitted_state(), target.fitted_facts())


def latents_known(assembly: Assembly) -> bool:
    """Whether both latents are known, though codecs may still have to be fitted.

    Raises what a modality that needs no fitting raises, such as BridgeflowError for an encoder that is not there.
    """
    for side in SIDES:
        modality = assembly.modality(side)
        try:
            _ = modality.latent
        except Exception:
            if not modality.needs_fit:
                raise
            return False
    return True


def fit_codecs(
    assembly: Assembly, items_of: Callable[[str], Iterable[Item]], progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Fits whatever codec still needs it to the items of its side; figures by side.

    `items_of('target')` gives the items of that side one by one, so that no more than the codec keeps is held. A side
    that needs no fitting and cannot be had is told before the other is fitted.
    """
    latents_known(assembly)
    figures: dict[str, dict[str, float]] = {}
    for side in ("target", "source"):
        share_codec(assembly)
        modality = assembly.modality(side)
        if modality.needs_fit:
            figures[side] = modality.fit(items_of(side), progress)
    return figures


def save_codec(modality: Modality, folder: Path, about: Mapping[str, Any], narrow: torch.dtype = torch.float32) -> None:
    """Writes a fitted codec as state.safetensors and codec.json, the latter last: a folder without it holds none.

    narrow: type that float32 tensors of two axes and more are written in; they are float32 again when they are read.

    Raises OSError or SafetensorError where they cannot be written, BridgeflowError where they are not finite or
    overflow the type.
    """
    durable.make_folder(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in modality.fitted_state().items()}
    spoilt = _first_not_finite(state)
    if spoilt is not None:
        raise BridgeflowError(
            f"the codec's {spoilt!r} holds numbers that are not finite, so nothing is written: fit it to other data or "
            "with other options."
        )
    narrowed = [name for name, own in state.items() if own.dtype == torch.float32 != narrow and own.ndim > 1]
    for name in narrowed:
        state[name] = state[name].to(narrow)
        if not is_finite(state[name]):
            raise BridgeflowError(f"the codec's {name!r} is too large for {narrow}: choose --precision bf16 or fp32.")
    path = folder / "state.safetensors"
    part = durable.part_of(path)
    try:
        save_file(state, part)
        durable.settle(part, path)
    finally:
        part.unlink(missing_ok=True)
    facts = {
        **about,
        "options": modality.options.model_dump(mode="json"),
        "facts": modality.fitted_facts(),
        "narrowed": narrowed,
        "checksum": durable.checksum(path),
    }
    durable.write_whole(folder / "codec.json", json.dumps(facts, indent=1, ensure_ascii=False))


def _first_not_finite(state: Mapping[str, Tensor]) -> str | None:
    return next((name for name, tensor in state.items() if not is_finite(tensor)), None)


def restore_codec(modality: Modality, folder: Path) -> None:
    """Takes a fitted codec from a folder that `save_codec` wrote.

    Raises BridgeflowError when the folder holds none or one fitted with other codec options.
    """
    try:
        described = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
        if not all(isinstance(own, dict) for own in (described, described.get("options"), described.get("facts"))):
            raise ValueError("codec.json describes none")
        narrowed = set(map(str, described.get("narrowed", [])))
        state = load_file(folder / "state.safetensors")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise BridgeflowError(
            f"{str(folder)!r} holds no fitted codec ({error}): make one with bridgeflow fit."
        ) from error
    written = described.get("checksum")
    if written is not None and durable.checksum(folder / "state.safetensors") != written:
        raise BridgeflowError(
            f"the codec in {str(folder)!r} is damaged (state.safetensors has changed since it was written): make it "
            "anew with bridgeflow fit."
        )
    spoilt = _first_not_finite(state)
    if spoilt is not None:
        raise BridgeflowError(
            f"the codec in {str(folder)!r} is damaged ({spoilt!r} holds numbers that are not finite): make it anew "
            "with bridgeflow fit."
        )
    options = modality.options.model_dump(mode="json")
    fitted_for = described.get("options", {})
    if not _alike(fitted_for.get("codec"), options.get("codec")):
        raise BridgeflowError(
            f"the codec in {str(folder)!r} was fitted with codec {fitted_for.get('codec')}, but the recipe asks for "
            f"{options.get('codec')}: fit one with these options, or take those over into the recipe."
        )
    state |= {name: state[name].float() for name in narrowed & state.keys()}
    modality.restore(state, described.get("facts", {}))


def _alike(fitted_for: Any, asked: Any) -> bool:
    """Whether two trees of options agree where neither leaves a value open as 'auto', whatever it came to."""
    if isinstance(fitted_for, Mapping) and isinstance(asked, Mapping):
        return fitted_for.keys() == asked.keys() and all(_alike(fitted_for[key], asked[key]) for key in asked)
    return fitted_for == asked or "auto" in (fitted_for, asked)
