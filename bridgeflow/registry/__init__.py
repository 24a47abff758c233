"""Plugins: from entry points to objects, each loaded on first use.

Listing reads the metadata of installed distributions and imports nothing. A plugin that cannot be loaded breaks
only itself, with a sentence that names its distribution, its version, the cause and the mend. So does one whose
entry point is declared in the source of an editable installation but was added after it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any, Literal

from bridgeflow.errors import BridgeflowError, UsageError, unknown_name
from bridgeflow.registry.foreign import in_place, quickly
from bridgeflow.registry.installation import (
    FORMER_NAME,
    OWN_DISTRIBUTION,
    OWN_PACKAGE,
    editable_folder,
    identity,
    install_what_has,
    installed_distribution,
    name_and_version,
    normal,
    origin,
    reinstall_command,
)

GROUPS = {
    "modality": "bridgeflow.modalities",
    "task": "bridgeflow.tasks",
    "recipe": "bridgeflow.recipes",
    "dataset": "bridgeflow.datasets",
    "network": "bridgeflow.networks",
    "importer": "bridgeflow.importers",
}
_KINDS = {group: kind for kind, group in GROUPS.items()}
BASES = {
    "modality": "bridgeflow.modality:Modality",
    "task": "bridgeflow.task:Task",
    "dataset": "bridgeflow.data.rows:DataSettings",
    "network": "bridgeflow.nn.velocity:NetworkSettings",
    "importer": "bridgeflow.checkpoints.importer:Importer",
}
"""What a plugin of each kind is a subclass of."""
API_VERSION = 1

Status = Literal["ok", "broken", "other contract", "twice", "not loaded", "not installed yet"]


class PluginError(BridgeflowError):
    """A plugin that cannot be used, in one sentence, with its status in `plugins list`."""

    def __init__(self, sentence: str, status: Status = "broken") -> None:
        super().__init__(sentence)
        self.status = status


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

        Raises PluginError when importing it fails, whatever way it fails, and when it is not what its kind asks for.
        """
        point = EntryPoint(self.name, self.value, GROUPS[self.kind])
        base, what = self._base(), f"importing {self.title}"
        try:
            with in_place(what), nullcontext() if is_from(self, OWN_DISTRIBUTION) else quickly(what):
                loaded = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise PluginError(self.failure(error)) from error
        written_for = getattr(loaded, "api_version", API_VERSION)
        if written_for != API_VERSION:
            mend = f"use a bridgeflow that speaks {written_for}, or another version of {self.distribution}"
            if isinstance(written_for, int) and written_for < API_VERSION:
                mend = f"pip install --upgrade --no-deps {self.distribution}"
            raise PluginError(
                f"{self.title} is written for version {written_for} of the contract, but this bridgeflow speaks "
                f"version {API_VERSION}: {mend}.",
                "other contract",
            )
        if base is not None and not (isinstance(loaded, type) and issubclass(loaded, base)):
            what = f"class {loaded.__name__!r}" if isinstance(loaded, type) else f"{type(loaded).__name__} object"
            raise PluginError(
                f"{self.title} is no {self.kind}: its entry point names {self.value!r}, a {what}, where a subclass of "
                f"{BASES[self.kind].replace(':', '.')} is expected; mend it there, or leave it out with "
                "BRIDGEFLOW_PLUGINS."
            )
        return loaded

    def _base(self) -> type[Any] | None:
        """What it has to be a subclass of. Imported first, torch with it, so that the time is not the plugin's."""
        if self.kind not in BASES:
            return None
        module, _, name = BASES[self.kind].partition(":")
        base: type[Any] = getattr(importlib.import_module(module), name)
        return base

    @property
    def title(self) -> str:
        """What a sentence calls it: the task 'depth' of bridgeflow-torch 0.1.0."""
        return f"the {self.kind} {self.name!r} of {self.distribution} {self.version}"

    def failure(self, error: BaseException) -> str:
        """One sentence on why loading failed."""
        return f"{self.title} cannot be loaded ({one_line(error)}): {self._mend(error)}."

    def _mend(self, error: BaseException) -> str:
        """What helps against an error met in loading, without a full stop."""
        own = self.value.partition(":")[0].strip()
        module = (getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
        top = module.partition(".")[0]
        if top in _own_packages():
            return (
                f"it is made for another bridgeflow than this one, so use that, or pip install --upgrade --no-deps "
                f"{self.distribution}"
            )
        if isinstance(error, ModuleNotFoundError) and module and top != own.partition(".")[0]:
            return install_what_has(top, self.distribution)
        folder = editable_folder(origin(installed_distribution(self.distribution)))
        place = None if folder is None else _place_in(folder, error)
        if place is not None:
            return f"mend {place}, or leave it out with BRIDGEFLOW_PLUGINS"
        # A module that is missing elsewhere in the package was not named by the entry point.
        is_named = f"{own}.".startswith(f"{module}.") if module else isinstance(error, ImportError | AttributeError)
        if isinstance(error, ModuleNotFoundError | AttributeError) and is_named:
            if folder is not None and (self.kind, self.name, self.value) in _points_in(folder):
                project, again = folder / "pyproject.toml", f"pip install -e {shlex.quote(str(folder))}"
                return f"{project} names {self.value!r}, so change that line or the class, then {again}"
            return f"its entry point names {self.value!r}, so {reinstall_command(self.distribution)}"
        return f"{reinstall_command(self.distribution)}, or leave it out with BRIDGEFLOW_PLUGINS"


def _own_packages() -> set[str]:
    """The packages that this distribution has: what another one misses in them is on no package index."""
    return {
        OWN_PACKAGE,
        *(p.value.partition(":")[0].partition(".")[0] for p in installed() if is_from(p, OWN_DISTRIBUTION)),
    }


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message that says something."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0].strip()}" if said else type(error).__name__


def _place_in(folder: Path, error: BaseException) -> str | None:
    """The file and line of the source in a folder that an error was raised in, or None."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))
    for name, line in reversed(frames):
        if folder in Path(name).parents:
            return f"{name}, line {line}"
    return None


def is_allowed(distribution: str) -> bool:
    """Whether `BRIDGEFLOW_PLUGINS` lets the plugins of a distribution in."""
    limit = os.environ.get("BRIDGEFLOW_PLUGINS")
    if limit is None or identity(distribution) == OWN_DISTRIBUTION:
        return True
    names = {normal(name.strip()) for name in limit.split(",")}
    return normal(distribution) in names and names != {"none"}


@cache
def _scan() -> tuple[tuple[Plugin, ...], tuple[str, ...]]:
    """(plugins, a sentence for each distribution whose metadata cannot be read)."""
    found: dict[str, list[Plugin]] = {}
    damaged: dict[str, str] = {}
    for own in distributions():
        try:
            points = [point for point in own.entry_points if point.group in _KINDS]
            if not points:
                continue
            name = own.metadata["Name"] or "a nameless distribution"
            version = own.metadata["Version"] or "of no version"
        # Whatever is odd about one distribution must leave the others alone.
        except Exception as error:
            name, version = name_and_version(own)
            damaged[normal(name)] = (
                f"the metadata of {name} {version} cannot be read ({one_line(error)}), so none of its plugins is to be "
                f"had: {reinstall_command(name)}."
            )
            continue
        # Of a distribution installed twice only the first on the path is the one that gets imported.
        if is_allowed(name) and normal(name) not in found:
            title = OWN_DISTRIBUTION if normal(name) == FORMER_NAME else name
            found[normal(name)] = [Plugin(_KINDS[p.group], p.name, p.value, title, version) for p in points]
    # What an installation under the former name has left behind counts only where there is no newer one.
    former = found.pop(FORMER_NAME, None)
    if former is not None:
        found.setdefault(OWN_DISTRIBUTION, former)
    plugins = [plugin for each in found.values() for plugin in each]
    return tuple(sorted(plugins, key=lambda plugin: (plugin.kind, plugin.name, plugin.distribution))), tuple(
        sentence for name, sentence in damaged.items() if name not in found
    )


def installed(kind: str | None = None) -> list[Plugin]:
    """Every plugin of a kind (or of all), by name. `BRIDGEFLOW_PLUGINS=none|a,b` limits the distributions
    beside bridgeflow's own."""
    return [plugin for plugin in _scan()[0] if kind is None or plugin.kind == kind]


def damaged() -> tuple[str, ...]:
    """A sentence for each distribution whose metadata cannot be read."""
    return _scan()[1]


def is_from(plugin: Plugin, distribution: str) -> bool:
    """Whether a distribution of that name offers the plugin."""
    return identity(plugin.distribution) == identity(distribution)


def offering(kind: str, name: str) -> list[Plugin]:
    """The plugins that a name may mean: several where several distributions offer it, one for `distribution:name`."""
    wanted, _, plain = name.rpartition(":")
    return [p for p in installed(kind) if p.name == plain and (not wanted or is_from(p, wanted))]


def plugin_of(own: type[Any], among: Iterable[Plugin] | None = None) -> Plugin | None:
    """The plugin whose entry point names a class, or one that it inherits from; of those given, or of all. Imports
    nothing: what is not imported has no instances."""
    named = [(plugin, found) for plugin in (installed() if among is None else among) if (found := _there(plugin))]
    return next((plugin for base in own.__mro__ for plugin, found in named if found is base), None)


def _there(plugin: Plugin) -> Any:
    """What an entry point names, where its module is imported; else None."""
    module, _, path = plugin.value.partition(":")
    found: Any = sys.modules.get(module.strip())
    for name in path.strip().split(".") if path else ():
        found = getattr(found, name, None)
    return found


def find(kind: str, name: str, *homes: str) -> Plugin:
    """The plugin of that name, or of `distribution:name`.

    homes: distributions whose own is meant where several offer the name, such as that of the task that names it; the
        first that offers it counts. Raises UsageError where it is not installed, and where several are left.
    """
    matching = offering(kind, name)
    if not matching:
        raise unknown(kind, name, {p.name for p in installed(kind)})
    if len(matching) == 1:
        return matching[0]
    own = [plugin for home in homes for plugin in matching if is_from(plugin, home)]
    if not own:
        raise UsageError(clash(matching))
    return own[0]


def is_same(kind: str, name: str, other: str) -> bool:
    """Whether two names can mean one plugin, as 'depth' and 'bridgeflow-torch:depth' do."""
    return name == other or not set(offering(kind, name)).isdisjoint(offering(kind, other))


def clash(plugins: list[Plugin]) -> str:
    """The sentence on one name that several distributions offer."""
    first = plugins[0]
    offered = " and ".join(f"{p.distribution} {p.version}" for p in plugins)
    others = [p.distribution for p in plugins if not is_from(p, OWN_DISTRIBUTION)]
    return (
        f"the {first.kind} {first.name!r} is offered by {offered}: say which, as '{first.distribution}:{first.name}', "
        f"or leave {' or '.join(others)} out with BRIDGEFLOW_PLUGINS."
    )


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not installed: the nearest one that is, or the editable installation that would
    have it were it installed again. `kind` may be 'plugin', which means any, or several: 'modality or task'."""
    wanted, _, plain = name.rpartition(":")
    for plugin, folder in declared():
        if (
            plugin.name == plain
            and (kind == "plugin" or plugin.kind in kind.split(" or "))
            and (not wanted or is_from(plugin, wanted))
        ):
            return UsageError(f"no {kind} {name!r}: {not_yet(plugin, folder)}.")
    return unknown_name(kind, name, known)


def declared() -> list[tuple[Plugin, Path]]:
    """(plugin, folder) of every entry point that the source of an editable installation declares and its installed
    metadata lacks: one added since it was installed."""
    there = {(p.kind, p.name, identity(p.distribution)) for p in installed()}
    found: dict[tuple[str, str, str], tuple[Plugin, Path]] = {}
    for own in distributions():
        folder = editable_folder(origin(own))
        if folder is None:
            continue
        name, version = name_and_version(own)
        for kind, point, value in _points_in(folder):
            key = (kind, point, identity(name))
            if key not in there and is_allowed(name):
                found[key] = (Plugin(kind, point, value, name, version), folder)
    return [found[key] for key in sorted(found)]


def _points_in(folder: Path) -> list[tuple[str, str, str]]:
    """(kind, name, value) of the entry points of ours in a folder's pyproject.toml; none where it cannot be read."""
    import tomllib

    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        groups = project.get("entry-points", {})
        points = [(kind, *point) for group, kind in _KINDS.items() for point in groups.get(group, {}).items()]
        return [point for point in points if all(isinstance(part, str) for part in point)]
    except (OSError, ValueError, AttributeError):
        return []


def not_yet(plugin: Plugin, folder: Path) -> str:
    """Why an entry point that `declared` found is not to be had, without a full stop."""
    return (
        f"{folder / 'pyproject.toml'} declares it for {plugin.distribution}, but was changed after that was installed: "
        f"pip install -e {shlex.quote(str(folder))}"
    )


@cache
def _loaded(plugin: Plugin) -> Any:
    return plugin.load()


def load(kind: str, name: str, *homes: str) -> Any:
    """The object registered under a name, see `find`; imported on first use."""
    return loaded(find(kind, name, *homes))


def loaded(plugin: Plugin) -> Any:
    """The object of a plugin; imported on first use."""
    return _loaded(plugin)


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


def forget() -> None:
    """Looks at the installed distributions anew the next time."""
    importlib.invalidate_caches()
    _scan.cache_clear()
    _loaded.cache_clear()
