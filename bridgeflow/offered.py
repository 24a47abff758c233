"""What is installed, as mappings from names: `bridgeflow.modalities`, `bridgeflow.tasks` and so on. Importing this
imports neither torch nor pydantic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bridgeflow import registry
from bridgeflow.errors import UsageError

if TYPE_CHECKING:
    from bridgeflow.data.rows import DataSettings
    from bridgeflow.modality import Modality
    from bridgeflow.nn.velocity import NetworkSettings
    from bridgeflow.task import Task
    from bridgeflow.tracker import TrackerSettings

Offered = TypeVar("Offered", covariant=True)


class MissingPlugin(UsageError, KeyError):
    """A name that is not installed: the error of a mapping's missing key, and of a user's mistake."""

    def __str__(self) -> str:
        return str(self.args[0])


class Plugins(Mapping[str, Offered]):
    """The installed plugins of a kind by name: a read-only mapping.

    Looking at its keys, its length or whether a name is in it imports nothing; taking one loads that one, and raises
    BridgeflowError where it cannot be loaded. A name that is not there is a KeyError and a UsageError that suggests
    the nearest. A name that several distributions offer is a key for each of them, as 'distribution:name'.

        >>> bridgeflow.modalities["text"]
        <class 'bridgeflow_plugins.text.Text'>
    """

    def __init__(self, title: str, kind: str) -> None:
        self._title = title
        self._kind = kind

    def _keys(self) -> list[str]:
        names = [(plugin.name, plugin.distribution) for plugin in registry.installed(self._kind)]
        return _distinct(names)

    def _read(self, name: str) -> Any:
        return registry.load(self._kind, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(registry.offering(self._kind, name))

    def __getitem__(self, name: str) -> Offered:
        if not isinstance(name, str):
            raise MissingPlugin(f"no {self._kind} {name!r}: a name is expected, such as {next(iter(self), 'none')!r}.")
        if name not in self:
            raise MissingPlugin(str(registry.unknown(self._kind, name, list(self))))
        found: Offered = self._read(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def __repr__(self) -> str:
        return f"<bridgeflow.{self._title}: {', '.join(self) or 'none installed'}>"


class Recipes(Plugins[dict[str, Any]]):
    """The installed recipes by name, such as 'depth/blocks': each a tree of keys, with what it extends laid under it.

    >>> bridgeflow.recipes["depth/blocks"].keys()
    """

    def __init__(self) -> None:
        super().__init__("recipes", "recipe")

    def _keys(self) -> list[str]:
        return _distinct([(name, plugin.distribution) for name, _, plugin in registry.recipe_files()])

    def _read(self, name: str) -> Any:
        from bridgeflow.config import layers

        return layers.read(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        distribution, _, plain = name.rpartition(":")
        return any(
            own == plain and (not distribution or registry.is_from(plugin, distribution))
            for own, _, plugin in registry.recipe_files()
        )


def _distinct(names: Sequence[tuple[str, str]]) -> list[str]:
    """Keys for (name, distribution) pairs: the name alone where only one distribution offers it."""
    plain = [name for name, _ in names]
    return [name if plain.count(name) == 1 else f"{distribution}:{name}" for name, distribution in names]


modalities: Plugins[type[Modality]] = Plugins("modalities", "modality")
"""The installed modalities, each a subclass of `bridgeflow.modality.Modality`."""
tasks: Plugins[type[Task]] = Plugins("tasks", "task")
"""The installed tasks, each a subclass of `bridgeflow.task.Task`."""
networks: Plugins[type[NetworkSettings]] = Plugins("networks", "network")
"""Settings of the installed networks, each a subclass of `bridgeflow.nn.velocity.NetworkSettings`."""
datasets: Plugins[type[DataSettings]] = Plugins("datasets", "dataset")
"""Settings of the installed data sets, each a subclass of `bridgeflow.data.rows.DataSettings`."""
trackers: Plugins[type[TrackerSettings]] = Plugins("trackers", "tracker")
"""Settings of the installed trackers, each a subclass of `bridgeflow.tracker.TrackerSettings`."""
recipes = Recipes()
"""The installed recipes, each a tree of keys."""
