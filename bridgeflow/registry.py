"""Plugins: from entry points to objects, each loaded on first use.

Listing reads the metadata of installed distributions and imports nothing. A plugin that cannot be loaded breaks
only itself, with a sentence that names its distribution, its version, the cause and the mend.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any

from bridgeflow.errors import BridgeflowError, UsageError, unknown_name

GROUPS = {
    "modality": "bridgeflow.modalities",
    "task": "bridgeflow.tasks",
    "recipe": "bridgeflow.recipes",
    "dataset": "bridgeflow.datasets",
    "network": "bridgeflow.networks",
    "importer": "bridgeflow.importers",
}
OWN_DISTRIBUTION = "bridgeflow"
API_VERSION = 1


@dataclass(frozen=True)
class Plugin:
    """An entry point and where it comes from."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> Any:
        """The object behind the entry point.

        Raises BridgeflowError when importing it fails, whatever way it fails.
        """
        try:
            loaded = EntryPoint(self.name, self.value, GROUPS[self.kind]).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise BridgeflowError(self.failure(error)) from error
        written_for = getattr(loaded, "api_version", API_VERSION)
        if written_for != API_VERSION:
            raise BridgeflowError(
                f"the {self.kind} {self.name!r} of {self.distribution} {self.version} is written for version "
                f"{written_for} of the contract, but this bridgeflow speaks version {API_VERSION}: "
                f"pip install --upgrade {self.distribution} bridgeflow."
            )
        return loaded

    def failure(self, error: BaseException) -> str:
        """One sentence on why loading failed."""
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        mend = f"pip install --force-reinstall {self.distribution}, or leave it out with BRIDGEFLOW_PLUGINS"
        own = self.value.partition(":")[0]
        if isinstance(error, ModuleNotFoundError) and error.name and not f"{own}.".startswith(f"{error.name}."):
            mend = f"pip install {error.name.split('.')[0]}"
        elif isinstance(error, ModuleNotFoundError | AttributeError):
            mend = f"its entry point names {self.value!r}, so pip install --force-reinstall {self.distribution}"
        return (
            f"the {self.kind} {self.name!r} of {self.distribution} {self.version} cannot be loaded "
            f"({cause.splitlines()[0]}): {mend}."
        )


def _normal(distribution: str) -> str:
    """The name as pip compares it (PEP 503): My_Plugin and my-plugin are one."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _allowed(distribution: str) -> bool:
    limit = os.environ.get("BRIDGEFLOW_PLUGINS")
    if limit is None or _normal(distribution) == OWN_DISTRIBUTION:
        return True
    names = {_normal(name.strip()) for name in limit.split(",")}
    return _normal(distribution) in names and names != {"none"}


@cache
def _installed() -> tuple[Plugin, ...]:
    kinds = {group: kind for kind, group in GROUPS.items()}
    found: dict[str, list[Plugin]] = {}
    for distribution in distributions():
        points = [point for point in distribution.entry_points if point.group in kinds]
        if not points:
            continue
        name = distribution.metadata["Name"] or "a nameless distribution"
        version = distribution.metadata["Version"] or "of no version"
        # Of a distribution installed twice only the first on the path is the one that gets imported.
        if _allowed(name) and _normal(name) not in found:
            found[_normal(name)] = [Plugin(kinds[p.group], p.name, p.value, name, version) for p in points]
    plugins = [plugin for own in found.values() for plugin in own]
    return tuple(sorted(plugins, key=lambda plugin: (plugin.kind, plugin.name, plugin.distribution)))


def installed(kind: str | None = None) -> list[Plugin]:
    """Every plugin of a kind (or of all), by name. `BRIDGEFLOW_PLUGINS=none|a,b` limits the distributions
    beside bridgeflow's own."""
    return [plugin for plugin in _installed() if kind is None or plugin.kind == kind]


def is_from(plugin: Plugin, distribution: str) -> bool:
    """Whether a distribution of that name offers the plugin."""
    return _normal(plugin.distribution) == _normal(distribution)


def find(kind: str, name: str) -> Plugin:
    """The plugin of that name, or of `distribution:name` where several distributions offer it."""
    plugins = installed(kind)
    wanted, _, plain = name.rpartition(":")
    matching = [p for p in plugins if p.name == plain and (not wanted or is_from(p, wanted))]
    if not matching:
        raise unknown_name(kind, name, {p.name for p in plugins})
    if len(matching) > 1:
        offered = " and ".join(f"{p.distribution} {p.version}" for p in matching)
        raise UsageError(
            f"the {kind} {name!r} is offered by {offered}: say which, as '{matching[0].distribution}:{name}'."
        )
    return matching[0]


@cache
def _loaded(plugin: Plugin) -> Any:
    return plugin.load()


def load(kind: str, name: str) -> Any:
    """The object registered under a name; imported on first use."""
    return _loaded(find(kind, name))


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
    ]
    return sorted(found, key=lambda entry: (entry[0], entry[2].distribution))


def forget() -> None:
    """Looks at the installed distributions anew the next time."""
    importlib.invalidate_caches()
    _installed.cache_clear()
    _loaded.cache_clear()
