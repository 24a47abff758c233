"""Whose plugin is meant where a recipe or a checkpoint names one that several distributions offer.

A bare name means that of whoever says it: of the recipe's own distribution, of the task's for its modalities, and of
the distribution that a checkpoint notes. Only what is ambiguous is left to the user, who writes DISTRIBUTION:NAME.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bridgeflow import registry
from bridgeflow.registry.installation import identity

Homes = Mapping[tuple[str, str], str]
"""(kind, name) -> the distribution that is meant."""

_PLACES = {
    ("task",): "task",
    ("data", "name"): "dataset",
    ("data", "task"): "task",
    ("network", "name"): "network",
}
"""Keys of a recipe that name a plugin, with its kind."""


def qualified(tree: Mapping[str, Any], home_of: Callable[[str, str], str | None]) -> dict[str, Any]:
    """The tree with 'distribution:name' for each name that several distributions offer, where one is at home.

    home_of: the distribution at home for (kind, name), or None.
    """
    made = dict(tree)
    for (key, *inner), kind in _PLACES.items():
        section = made.get(key)
        name = section.get(inner[0]) if inner and isinstance(section, Mapping) else section
        if isinstance(name, str):
            own = at_home(kind, name, home_of(kind, name))
            made[key] = {**section, inner[0]: own} if inner and isinstance(section, Mapping) else own
    return made


def at_home(kind: str, name: str, home: str | None) -> str:
    """The name, as 'distribution:name' where several distributions offer it and `home` is one of them."""
    offering = registry.offering(kind, name)
    own = [plugin for plugin in offering if home is not None and registry.is_from(plugin, home)]
    return f"{own[0].distribution}:{name}" if own and len(offering) > 1 else name


def recipe_at_home(name: str, home: str) -> str:
    """As `at_home`, for the name of a recipe."""
    offering = {plugin.distribution for own, _, plugin in registry.recipe_files() if own == name}
    own = [distribution for distribution in offering if identity(distribution) == identity(home)]
    return f"{own[0]}:{name}" if own and len(offering) > 1 else name


def plain(name: str) -> str:
    """The name without the distribution before it."""
    return name.rpartition(":")[2]
