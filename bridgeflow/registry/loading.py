"""From an entry point to the object it names, loaded on first use.

A plugin that cannot be loaded breaks only itself, with a sentence that names its distribution, its version, the cause
and what to do. So does one whose entry point is declared in the source of an editable installation but was added after
it.
"""

from __future__ import annotations

import importlib
import shlex
import sys
import traceback
from collections.abc import Iterable
from contextlib import nullcontext
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

from bridgeflow.errors import BridgeflowError
from bridgeflow.registry.entry_points import GROUPS, Plugin, find, installed, is_from, look_again, one_line, points_in
from bridgeflow.registry.foreign import in_place, quickly
from bridgeflow.registry.installation import (
    OWN_DISTRIBUTION,
    OWN_PACKAGE,
    editable_folder,
    install_what_has,
    installed_distribution,
    origin,
    reinstall_command,
)

BASES = {
    "modality": "bridgeflow.modality:Modality",
    "task": "bridgeflow.task:Task",
    "dataset": "bridgeflow.data.rows:DataSettings",
    "network": "bridgeflow.nn.velocity:NetworkSettings",
    "importer": "bridgeflow.checkpoints.importer:Importer",
    "path": "bridgeflow.flow.path:PathSettings",
    "source_encoder": "bridgeflow.nn.encoded:SourceEncoderSettings",
    "coupling": "bridgeflow.flow.coupling:CouplingSettings",
    "objective": "bridgeflow.flow.objective:ObjectiveSettings",
    "guidance": "bridgeflow.flow.guidance:GuidanceSettings",
    "solver": "bridgeflow.flow.solver:SolverSettings",
    "encoding_loss": "bridgeflow.nn.encoding_loss:EncodingLossSettings",
    "optimizer": "bridgeflow.config.optimizers:OptimizerSettings",
    "tracker": "bridgeflow.tracker:TrackerSettings",
}
"""What a plugin of each kind is a subclass of."""
API_VERSION = 1

Status = Literal["ok", "broken", "other contract", "twice", "not loaded", "not installed yet"]


class PluginError(BridgeflowError):
    """A plugin that cannot be used, in one sentence, with its status in `plugins list`."""

    def __init__(self, sentence: str, status: Status = "broken") -> None:
        super().__init__(sentence)
        self.status = status


def load_plugin(plugin: Plugin) -> Any:
    """The object behind an entry point.

    Raises PluginError when importing it fails, whatever way it fails, and when it is not what its kind asks for.
    """
    point = EntryPoint(plugin.name, plugin.value, GROUPS[plugin.kind])
    base, what = base_of(plugin.kind), f"importing {plugin.title}"
    try:
        with in_place(what), nullcontext() if is_from(plugin, OWN_DISTRIBUTION) else quickly(what):
            loaded = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(failure(plugin, error)) from error
    written_for = getattr(loaded, "api_version", API_VERSION)
    if written_for != API_VERSION:
        fix = f"use a bridgeflow that speaks {written_for}, or another version of {plugin.distribution}"
        if isinstance(written_for, int) and written_for < API_VERSION:
            fix = f"pip install --upgrade --no-deps {plugin.distribution}"
        raise PluginError(
            f"{plugin.title} is written for version {written_for} of the contract, but this bridgeflow speaks "
            f"version {API_VERSION}: {fix}.",
            "other contract",
        )
    if base is not None and not (isinstance(loaded, type) and issubclass(loaded, base)):
        what = f"class {loaded.__name__!r}" if isinstance(loaded, type) else f"{type(loaded).__name__} object"
        raise PluginError(
            f"{plugin.title} is no {plugin.kind}: its entry point names {plugin.value!r}, a {what}, where a subclass "
            f"of {BASES[plugin.kind].replace(':', '.')} is expected; fix it there, or leave it out with "
            "BRIDGEFLOW_PLUGINS."
        )
    return loaded


def base_of(kind: str) -> type[Any] | None:
    """What a plugin of a kind has to be a subclass of. Imported first, torch with it, so that the time is not the
    plugin's."""
    if kind not in BASES:
        return None
    module, _, name = BASES[kind].partition(":")
    base: type[Any] = getattr(importlib.import_module(module), name)
    return base


def failure(plugin: Plugin, error: BaseException) -> str:
    """One sentence on why loading a plugin failed."""
    return f"{plugin.title} cannot be loaded ({one_line(error)}): {_remedy(plugin, error)}."


def _remedy(plugin: Plugin, error: BaseException) -> str:
    """What helps against an error met in loading, without a full stop."""
    own = plugin.value.partition(":")[0].strip()
    module = (getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
    top = module.partition(".")[0]
    if top in _own_packages():
        return (
            f"it is made for another bridgeflow than this one, so use that, or pip install --upgrade --no-deps "
            f"{plugin.distribution}"
        )
    if isinstance(error, ModuleNotFoundError) and module and top != own.partition(".")[0]:
        return install_what_has(top, plugin.distribution)
    folder = editable_folder(origin(installed_distribution(plugin.distribution)))
    place = None if folder is None else _place_in(folder, error)
    if place is not None:
        return f"fix {place}, or leave it out with BRIDGEFLOW_PLUGINS"
    # A module that is missing elsewhere in the package was not named by the entry point.
    is_named = f"{own}.".startswith(f"{module}.") if module else isinstance(error, ImportError | AttributeError)
    if isinstance(error, ModuleNotFoundError | AttributeError) and is_named:
        if folder is not None and (plugin.kind, plugin.name, plugin.value) in points_in(folder):
            project, again = folder / "pyproject.toml", f"pip install -e {shlex.quote(str(folder))}"
            return f"{project} names {plugin.value!r}, so change that line or the class, then {again}"
        return f"its entry point names {plugin.value!r}, so {reinstall_command(plugin.distribution)}"
    return f"{reinstall_command(plugin.distribution)}, or leave it out with BRIDGEFLOW_PLUGINS"


def _own_packages() -> set[str]:
    """The packages that this distribution has: what another one misses in them is on no package index."""
    return {
        OWN_PACKAGE,
        *(p.value.partition(":")[0].partition(".")[0] for p in installed() if is_from(p, OWN_DISTRIBUTION)),
    }


def _place_in(folder: Path, error: BaseException) -> str | None:
    """The file and line of the source in a folder that an error was raised in, or None."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))
    for name, line in reversed(frames):
        if folder in Path(name).parents:
            return f"{name}, line {line}"
    return None


@cache
def _loaded(plugin: Plugin) -> Any:
    return load_plugin(plugin)


def load(kind: str, name: str, *homes: str) -> Any:
    """The object registered under a name, see `find`; imported on first use."""
    return loaded(find(kind, name, *homes))


def loaded(plugin: Plugin) -> Any:
    """The object of a plugin; imported on first use."""
    return _loaded(plugin)


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


def forget() -> None:
    """Looks at the installed distributions anew the next time."""
    importlib.invalidate_caches()
    look_again()
    _loaded.cache_clear()
