"""The entry points of installed distributions: read from their metadata, so that listing them imports nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from bridgeflow.errors import UsageError, unknown_name
from bridgeflow.registry.installation import (
    FORMER_NAME,
    OWN_DISTRIBUTION,
    editable_folder,
    identity,
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
    "path": "bridgeflow.paths",
    "source_encoder": "bridgeflow.source_encoders",
    "coupling": "bridgeflow.couplings",
    "objective": "bridgeflow.objectives",
    "guidance": "bridgeflow.guidance",
    "solver": "bridgeflow.solvers",
    "optimizer": "bridgeflow.optimizers",
    "encoding_loss": "bridgeflow.encoding_losses",
    "tracker": "bridgeflow.trackers",
}
_KINDS = {group: kind for kind, group in GROUPS.items()}


@dataclass(frozen=True)
class Plugin:
    """An entry point and where it comes from."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str

    @property
    def title(self) -> str:
        """What a sentence calls it: the task 'depth' of bridgeflow-torch 0.1.0."""
        return f"the {self.kind} {self.name!r} of {self.distribution} {self.version}"


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message that says something."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0].strip()}" if said else type(error).__name__


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
    have it were it installed again. `kind` may be 'plugin', for any, or several: 'modality, task or tracker'."""
    wanted, _, plain = name.rpartition(":")
    for plugin, folder in declared():
        if (
            plugin.name == plain
            and (kind == "plugin" or plugin.kind in kind.replace(", ", " or ").split(" or "))
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
        for kind, point, value in points_in(folder):
            key = (kind, point, identity(name))
            if key not in there and is_allowed(name):
                found[key] = (Plugin(kind, point, value, name, version), folder)
    return [found[key] for key in sorted(found)]


def points_in(folder: Path) -> list[tuple[str, str, str]]:
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


def look_again() -> None:
    """Reads the metadata anew the next time."""
    _scan.cache_clear()
