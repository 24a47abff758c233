"""The objects that a recipe describes: modalities with their fitted codecs, the task, the bridge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bridgeflow.assembly.codec_files import restore_codec
from bridgeflow.bridge import Bridge
from bridgeflow.conditioned import ConditionedModality, ConditionedOptions
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import UsageError
from bridgeflow.modality import Modality
from bridgeflow.nn.alignment import AlignmentSettings
from bridgeflow.registry.foreign import in_place
from bridgeflow.task import Task

SIDES = ("source", "target")


@dataclass
class Assembly:
    """A task with its modalities, ready to read, encode and decode."""

    recipe: Recipe
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

    @property
    def parts(self) -> dict[str, Modality]:
        """Every modality by the key of its section: codecs are fitted, named and kept for each."""
        return self.task.parts()

    def to(self, device: torch.device | str) -> Assembly:
        """Both modalities moved to a device."""
        self.source.to(device)
        self.target.to(device)
        return self

    def scored_by(self, recipe: Recipe) -> Assembly:
        """The same modalities under a recipe with other data or options of the task."""
        return Assembly(recipe, recipe.task(recipe.options, self.source, self.target))

    def build_bridge(self, trained: bool = False) -> Bridge:
        """A bridge with fresh weights for these modalities' latents. trained: for weights that are there already, so
        that nothing is read that only training needs, such as an encoder to be aligned with.

        Raises UsageError where the recipe's parts do not fit one another.
        """
        keys = self.recipe.keys
        if trained:
            keys = keys.model_copy(update={"alignment": AlignmentSettings()})
        try:
            bridge = Bridge(
                keys,
                self.recipe.network,
                self.source.latent,
                self.target.latent,
                {name: own.latent for name, own in self.source.conditions.items()},
            )
        except ValueError as error:
            raise UsageError(f"recipe {self.recipe.name!r}: {error}") from error
        if bridge.needs_target_pixels and type(self.target).observed is Modality.observed:
            looks, instead = ("encoding.tower.name=timm", "encoding.tower.name=tokens")
            if bridge.alignment is not None:
                looks, instead = ("alignment.name=repa", "alignment.name=none")
            raise UsageError(
                f"recipe {self.recipe.name!r}: {looks} looks at pixels, and the target "
                f"{self.recipe.task.target.name!r} shows none: set {instead}."
            )
        pieces = self.source.piece_latent
        sized = not bridge.source_encoder.takes_any_size or not bridge.network.takes(pieces.shape)
        if pieces != self.source.latent and sized:
            raise UsageError(
                f"recipe {self.recipe.name!r}: the source {self.recipe.task.source.name!r} runs on pieces of {pieces}, "
                f"larger than the {self.source.latent} of training, which this network does not take: leave their size "
                "at that of training (source.tile=null), or choose network.name=unet and a size that its levels divide."
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


def assemble(recipe: Recipe, codecs: Mapping[str, Path] | None = None) -> Assembly:
    """The task and its modalities, with fitted codecs restored: those given, by side, else those that the recipe
    names."""
    with in_place(f"building the modalities and the task of the recipe {recipe.name!r}"):
        source = _source(recipe)
        target = recipe.target(recipe.target_options)
        assembly = Assembly(recipe, recipe.task(recipe.options, source, target))
    given: Mapping[str, Path] = {side: Path(folder) for side, folder in recipe.keys.codecs.items()}
    for side, folder in (given if codecs is None else codecs).items():
        restore_codec(assembly.parts[side], folder)
    share_codec(assembly)
    return assembly


def _source(recipe: Recipe) -> Modality:
    options = recipe.source_options
    if not isinstance(options, ConditionedOptions):
        return recipe.source(options)
    conditions = {name: kind(options.conditions[name]) for name, kind in recipe.conditions.items()}
    return ConditionedModality(options, recipe.source(options.start), conditions)


def latents_known(assembly: Assembly) -> bool:
    """Whether all latents are known, though codecs may still have to be fitted.

    Raises what a modality that needs no fitting raises, such as BridgeflowError for an encoder that is not there.
    """
    for modality in assembly.parts.values():
        try:
            _ = modality.latent
        except Exception:
            if not modality.needs_fit:
                raise
            return False
    return True


def share_codec(assembly: Assembly) -> None:
    """Gives the sources the target's fitted codec where both are set to the same one."""
    target = assembly.target
    codec = getattr(target.options, "codec", None)
    for source in assembly.source.parts("source").values():
        same = codec is not None and getattr(source.options, "codec", None) == codec
        if source.needs_fit and not target.needs_fit and same:
            source.restore(target.fitted_state(), target.fitted_facts())
