"""Installed recipes, and the models that lie beside them; found without importing their packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from bridgeflow.registry.entry_points import Plugin, installed, is_from


def recipe_folders() -> Iterator[tuple[Plugin, str]]:
    """(plugin, folder) of every installed package of recipes, found without importing it."""
    for plugin in installed("recipe"):
        top, *inner = plugin.value.split(".")
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        for location in (spec.submodule_search_locations if spec else None) or ():
            folder = Path(location, *inner)
            if folder.is_dir():
                yield plugin, str(folder)


def recipe_files() -> list[tuple[str, Path, Plugin]]:
    """(name, file, plugin) of every installed recipe, by name; a name is the file's path without its ending."""
    found = [
        (file.relative_to(folder).with_suffix("").as_posix(), file, plugin)
        for plugin, folder in recipe_folders()
        for file in Path(folder).glob("*/**/*.yaml")
        # A link that leads nowhere and a folder of such a name are no recipes, nor is what lies in a model's folder.
        if file.is_file() and not (file.parent / "meta.json").is_file()
    ]
    return sorted(found, key=lambda entry: (entry[0], entry[2].distribution))


def shipped(recipe: str, *homes: str) -> Path | None:
    """The model that is installed with a recipe: the checkpoint in the folder of its name beside it; or None.

    recipe: NAME or DISTRIBUTION:NAME; where several distributions offer it, that of `homes` is meant.
    """
    wanted, _, plain = recipe.rpartition(":")
    found = [
        (file.with_suffix(""), plugin)
        for own, file, plugin in recipe_files()
        if own == plain and (not wanted or is_from(plugin, wanted))
    ]
    found = [(folder, plugin) for folder, plugin in found if (folder / "meta.json").is_file()]
    at_home = [folder for folder, plugin in found if plugin.distribution in homes]
    return next(iter(at_home or [folder for folder, _ in found]), None)


def is_installed_model(folder: Path) -> bool:
    """Whether a checkpoint lies in an installed package of recipes."""
    place = folder.resolve()
    return any(place.is_relative_to(Path(own).resolve()) for _, own in recipe_folders())
