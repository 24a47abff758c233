"""Sections that give no name: the default's is meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from bridgeflow import registry
from bridgeflow.config.keys import COMPONENTS, RecipeKeys
from bridgeflow.errors import BridgeflowError


def with_default_names(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree with the default's name in a component's section that gives none: {patch: 2} is a dit's."""
    return _named(tree, {key: field.default for key, field in RecipeKeys.model_fields.items()})


def _named(tree: Mapping[str, Any], defaults: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    named = dict(tree)
    for key, default in defaults.items():
        given = tree.get(key)
        if not isinstance(given, Mapping):
            continue
        name = default.get("name") if isinstance(default, dict) else getattr(default, "name", None)
        own = {"name": name, **given} if name is not None else dict(given)
        settings = _chosen(f"{place}{key}", own.get("name"), default) if isinstance(default, BaseModel) else None
        if settings is not None:
            inside = {field: info.default for field, info in settings.model_fields.items()}
            own = _named(own, inside, f"{place}{key}.")
        named[key] = own
    return named


def _chosen(place: str, name: Any, default: BaseModel) -> type[BaseModel] | None:
    """The settings that a section's name chooses; None where it is no plugin's and not the default's."""
    if name == getattr(default, "name", None):
        return type(default)
    try:
        own: type[BaseModel] = registry.load(COMPONENTS[place], str(name))
    except (KeyError, BridgeflowError):
        # Told where the recipe is checked.
        return None
    return own
