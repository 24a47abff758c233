"""A modality under examination, and what the checks share: built once, fitted once, encoded once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from bridgeflow import registry
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import API_VERSION, Modality
from bridgeflow.registry import Plugin
from bridgeflow.settings import Settings
from bridgeflow.task import Task
from bridgeflow.testing.outcome import Fault, calling, remembered
from bridgeflow.tracker import TrackerSettings

ROWS = 4
"""Items of the batch that most checks look at."""


def copied(value: Any) -> Any:
    """A copy, so that a method which changes what it is handed leaves the other checks alone; the value itself where
    it cannot be copied."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def load_class(kind: str, given: str | type[Any], base: type[Any]) -> tuple[type[Any], Plugin | None]:
    """The class of a registered name, or the class given itself, with the entry point it came from.

    Raises UsageError for a name that is not there, and Fault for a plugin that is none of its kind.
    """
    plugin = None
    loaded: Any = given
    if isinstance(given, str):
        plugin = registry.find(kind, given)
        try:
            loaded = registry.load_plugin(plugin)
        except BridgeflowError as error:
            raise Fault(str(error)) from error.__cause__
    name = repr(given) if isinstance(given, str) else getattr(given, "__name__", repr(given))
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise Fault(
            f"{name} is no subclass of bridgeflow.{kind}.{base.__name__}: let the class inherit from it, and name "
            "the class in the entry point."
        )
    version = getattr(loaded, "api_version", None)
    if version != API_VERSION:
        raise Fault(
            f"{name} is written for version {version} of the contract, but this bridgeflow speaks version "
            f"{API_VERSION}: set `api_version = {API_VERSION}` once the class follows it."
        )
    return loaded, plugin


def waivers_of(kind: type[Any]) -> Mapping[str, str]:
    """A class's waivers, where they are a mapping at all."""
    waived = getattr(kind, "waived", {})
    return waived if isinstance(waived, Mapping) else {}


def default_settings(model: Any) -> Settings:
    """The options at their defaults. Raises Fault where the model is none of ours or an option has no default."""
    if not (isinstance(model, type) and issubclass(model, Settings)):
        raise Fault("`Options` is no subclass of bridgeflow.settings.Settings: let it inherit from it.")
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    if required:
        raise Fault(f"the option {required[0]!r} has no default: give it one, so that the plugin works as it is.")
    with calling("Options", "its own defaults"):
        return model()


Kind = TypeVar("Kind", Modality, Task, TrackerSettings)


class PluginSubject(Generic[Kind]):
    """A plugin under examination: its class, by a registered name or given itself, and its waivers."""

    contract: type[Kind]
    """What the class has to inherit from."""
    word: str
    """What a plugin of this kind is called."""

    def __init__(self, given: str | type[Kind]) -> None:
        if isinstance(given, str):
            registry.find(self.word, given)
        self.given: str | type[Kind] = given
        self.reported: dict[str, str] = {}

    @property
    def waived(self) -> Mapping[str, str]:
        """The plugin's waivers; empty where it cannot be loaded."""
        try:
            return waivers_of(self.kind)
        except Fault:
            return {}

    @remembered
    def loaded(self) -> tuple[type[Kind], Plugin | None]:
        """The class and its entry point."""
        return load_class(self.word, self.given, self.contract)

    @property
    def kind(self) -> type[Kind]:
        """The class."""
        return self.loaded[0]
