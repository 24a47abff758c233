"""What a recipe says under `training.trackers`: each a tracker's name, or its settings with the name among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bridgeflow import registry
from bridgeflow.config.validation import validated
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.tracker import TrackerSettings

if TYPE_CHECKING:
    from bridgeflow.config.keys import RecipeKeys
    from bridgeflow.config.recipe import Recipe

PLACE = "training.trackers"


class NamedTracker(NamedTuple):
    """A tracker's settings, and its name as the recipe writes it."""

    name: str
    settings: TrackerSettings

    def tree(self) -> dict[str, Any]:
        """The settings with every default written out."""
        return {**self.settings.model_dump(mode="json"), "name": self.name}


def chosen(given: Sequence[str | Mapping[str, Any]], mistakes: list[str]) -> tuple[NamedTracker, ...]:
    """The trackers of a recipe in their order; `mistakes` takes a sentence for each that does not fit."""
    found = (_chosen(entry, f"{PLACE}.{place}", mistakes) for place, entry in enumerate(given))
    return tuple(own for own in found if own is not None)


def trackers_of(recipe: Recipe) -> tuple[NamedTracker, ...]:
    """The trackers of a recipe, resolved with them or without. Raises UsageError where one does not fit."""
    if recipe.trackers is not None:
        return recipe.trackers
    mistakes: list[str] = []
    found = chosen(recipe.training.trackers, mistakes)
    if mistakes:
        raise UsageError(f"recipe {recipe.name!r}: {mistakes[0]}")
    return found


def written_out(keys: RecipeKeys, trackers: Sequence[NamedTracker]) -> RecipeKeys:
    """A recipe's keys with the settings of its trackers written out."""
    training = keys.training.model_copy(update={"trackers": tuple(own.tree() for own in trackers)})
    return keys.model_copy(update={"training": training})


def _chosen(entry: str | Mapping[str, Any], place: str, mistakes: list[str]) -> NamedTracker | None:
    own = {"name": entry} if isinstance(entry, str) else dict(entry)
    name = own.pop("name", None)
    if not isinstance(name, str):
        mistakes.append(f"{place}: its name is missing, such as {{name: tensorboard}}.")
        return None
    try:
        # Results do not depend on a tracker, so that a name which several offer means bridgeflow's own.
        kind = registry.load("tracker", name, registry.OWN_DISTRIBUTION)
    except BridgeflowError as error:
        mistakes.append(f"{place}: {error}")
        return None
    settings = validated(kind, own, place, mistakes)
    return None if settings is None else NamedTracker(name, settings)
