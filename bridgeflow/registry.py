"""Plugins: from entry points to objects, each loaded on first use.

Listing reads the metadata of installed distributions and imports nothing. A plugin that cannot be loaded breaks
only itself, with a sentence that names its distribution, its version, the cause and the mend. So does one whose
entry point is declared in the source of an editable installation but was added after it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from bridgeflow.errors import BridgeflowError, UsageError, unknown_name

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
    "importer": "bridgeflow.importer:Importer",
}
"""What a plugin of each kind is a subclass of."""
OWN_DISTRIBUTION = "bridgeflow"
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
        try:
            loaded = EntryPoint(self.name, self.value, GROUPS[self.kind]).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise PluginError(self.failure(error)) from error
        written_for = getattr(loaded, "api_version", API_VERSION)
        if written_for != API_VERSION:
            raise PluginError(
                f"{self.title} is written for version {written_for} of the contract, but this bridgeflow speaks "
                f"version {API_VERSION}: pip install --upgrade {self.distribution} bridgeflow.",
                "other contract",
            )
        self._check_base(loaded)
        return loaded

    def _check_base(self, loaded: Any) -> None:
        if self.kind not in BASES:
            return
        module, _, name = BASES[self.kind].partition(":")
        base = getattr(importlib.import_module(module), name)
        if not isinstance(loaded, type) or not issubclass(loaded, base):
            what = f"class {loaded.__name__!r}" if isinstance(loaded, type) else f"{type(loaded).__name__} object"
            raise PluginError(
                f"{self.title} is no {self.kind}: its entry point names {self.value!r}, a {what}, where a subclass of "
                f"{module}.{name} is expected; mend it there, or leave it out with BRIDGEFLOW_PLUGINS."
            )

    @property
    def title(self) -> str:
        """What a sentence calls it: the task 'depth' of bridgeflow 0.1.0."""
        return f"the {self.kind} {self.name!r} of {self.distribution} {self.version}"

    def failure(self, error: BaseException) -> str:
        """One sentence on why loading failed."""
        return f"{self.title} cannot be loaded ({one_line(error)}): {self._mend(error)}."

    def _mend(self, error: BaseException) -> str:
        """What helps against an error met in loading, without a full stop."""
        own = self.value.partition(":")[0].strip()
        module = (getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
        if module.split(".")[0] == OWN_DISTRIBUTION:
            return f"it asks for another bridgeflow, so pip install --upgrade {self.distribution} bridgeflow"
        if isinstance(error, ModuleNotFoundError) and module and not f"{own}.".startswith(f"{module}."):
            return f"pip install {module.split('.')[0]}"
        folder = _editable_folder(origin(installed_distribution(self.distribution)))
        place = None if folder is None else _place_in(folder, error)
        if place is not None:
            return f"mend {place}, or leave it out with BRIDGEFLOW_PLUGINS"
        if isinstance(error, ModuleNotFoundError | AttributeError):
            if folder is not None and (self.kind, self.name, self.value) in _points_in(folder):
                project, again = folder / "pyproject.toml", f"pip install -e {shlex.quote(str(folder))}"
                return f"{project} names {self.value!r}, so change that line or the class, then {again}"
            return f"its entry point names {self.value!r}, so {reinstall_command(self.distribution)}"
        return f"{reinstall_command(self.distribution)}, or leave it out with BRIDGEFLOW_PLUGINS"


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error).strip() else type(error).__name__


def _place_in(folder: Path, error: BaseException) -> str | None:
    """The file and line of the source in a folder that an error was raised in, or None."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))
    for name, line in reversed(frames):
        if folder in Path(name).parents:
            return f"{name}, line {line}"
    return None


def _normal(distribution: str) -> str:
    """The name as pip compares it (PEP 503): My_Plugin and my-plugin are one."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def is_allowed(distribution: str) -> bool:
    """Whether `BRIDGEFLOW_PLUGINS` lets the plugins of a distribution in."""
    limit = os.environ.get("BRIDGEFLOW_PLUGINS")
    if limit is None or _normal(distribution) == OWN_DISTRIBUTION:
        return True
    names = {_normal(name.strip()) for name in limit.split(",")}
    return _normal(distribution) in names and names != {"none"}


@cache
def _scan() -> tuple[tuple[Plugin, ...], tuple[str, ...]]:
    """(plugins, a sentence for each distribution whose entry points cannot be read)."""
    found: dict[str, list[Plugin]] = {}
    damaged: dict[str, str] = {}
    for own in distributions():
        try:
            points = [point for point in own.entry_points if point.group in _KINDS]
        except (TypeError, ValueError, OSError) as error:
            name = own.metadata["Name"] or "a nameless distribution"
            damaged[_normal(name)] = (
                f"the entry points of {name} {own.metadata['Version']} cannot be read ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}), so none of its plugins is to be had: {reinstall_command(name)}."
            )
            continue
        if not points:
            continue
        name = own.metadata["Name"] or "a nameless distribution"
        version = own.metadata["Version"] or "of no version"
        # Of a distribution installed twice only the first on the path is the one that gets imported.
        if is_allowed(name) and _normal(name) not in found:
            found[_normal(name)] = [Plugin(_KINDS[p.group], p.name, p.value, name, version) for p in points]
    plugins = [plugin for each in found.values() for plugin in each]
    return tuple(sorted(plugins, key=lambda plugin: (plugin.kind, plugin.name, plugin.distribution))), tuple(
        sentence for name, sentence in damaged.items() if name not in found
    )


def installed(kind: str | None = None) -> list[Plugin]:
    """Every plugin of a kind (or of all), by name. `BRIDGEFLOW_PLUGINS=none|a,b` limits the distributions
    beside bridgeflow's own."""
    return [plugin for plugin in _scan()[0] if kind is None or plugin.kind == kind]


def damaged() -> tuple[str, ...]:
    """A sentence for each distribution whose entry points cannot be read."""
    return _scan()[1]


def is_from(plugin: Plugin, distribution: str) -> bool:
    """Whether a distribution of that name offers the plugin."""
    return _normal(plugin.distribution) == _normal(distribution)


def find(kind: str, name: str) -> Plugin:
    """The plugin of that name, or of `distribution:name` where several distributions offer it."""
    plugins = installed(kind)
    wanted, _, plain = name.rpartition(":")
    matching = [p for p in plugins if p.name == plain and (not wanted or is_from(p, wanted))]
    if not matching:
        raise unknown(kind, name, {p.name for p in plugins})
    if len(matching) > 1:
        raise UsageError(clash(matching))
    return matching[0]


def clash(plugins: list[Plugin]) -> str:
    """The sentence on one name that several distributions offer."""
    first = plugins[0]
    offered = " and ".join(f"{p.distribution} {p.version}" for p in plugins)
    return (
        f"the {first.kind} {first.name!r} is offered by {offered}: say which, as '{first.distribution}:{first.name}'."
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


# -- what lies on the disk of a distribution ---------------------------------------------------------------


def installed_distribution(name: str) -> Distribution | None:
    """The installed distribution of that name, as pip compares names, or None."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        # The quick look-up misses a folder whose name an older tool wrote in another form.
        return next((own for own in distributions() if _normal(own.metadata["Name"] or "") == _normal(name)), None)


def origin(own: Distribution | None) -> dict[str, Any]:
    """What pip noted of where a distribution came from (PEP 610); empty for one of a package index."""
    try:
        noted = json.loads((own and own.read_text("direct_url.json")) or "{}")
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _editable_folder(noted: dict[str, Any]) -> Path | None:
    url = urlsplit(str(noted.get("url", "")))
    if url.scheme != "file" or not (noted.get("dir_info") or {}).get("editable"):
        return None
    return Path(unquote(url.path))


def reinstall_command(name: str) -> str:
    """The command that installs a distribution again from where it came from."""
    folder = _editable_folder(origin(installed_distribution(name)))
    return f"pip install --force-reinstall {name}" if folder is None else f"pip install -e {shlex.quote(str(folder))}"


def declared() -> list[tuple[Plugin, Path]]:
    """(plugin, folder) of every entry point that the source of an editable installation declares and its installed
    metadata lacks: one added since it was installed."""
    there = {(p.kind, p.name, _normal(p.distribution)) for p in installed()}
    found: dict[tuple[str, str, str], tuple[Plugin, Path]] = {}
    for own in distributions():
        folder = _editable_folder(origin(own))
        if folder is None:
            continue
        name, version = own.metadata["Name"], own.metadata["Version"]
        for kind, point, value in _points_in(folder):
            key = (kind, point, _normal(name))
            if key not in there and is_allowed(name):
                found[key] = (Plugin(kind, point, value, name, version), folder)
    return [found[key] for key in sorted(found)]


def _points_in(folder: Path) -> list[tuple[str, str, str]]:
    """(kind, name, value) of the entry points of ours in a folder's pyproject.toml; none where it cannot be read."""
    import tomllib

    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        groups = project.get("entry-points", {})
        return [(kind, *point) for group, kind in _KINDS.items() for point in groups.get(group, {}).items()]
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
    _scan.cache_clear()
    _loaded.cache_clear()
