"""Whose code an error came from: a plugin's author mends a plugin, and a report is for bridgeflow's own."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from bridgeflow import registry
from bridgeflow.registry import Plugin


def sentence_on(error: BaseException) -> str | None:
    """One sentence on an error that was raised in the code of a plugin: where, what, and the mend. None where no
    plugin but bridgeflow's own took part."""
    folders: dict[Path, list[Plugin]] = {}
    for plugin in registry.installed():
        folder = _folder(plugin)
        if folder is not None:
            folders.setdefault(folder, []).append(plugin)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        for folder, plugins in folders.items():
            if folder == path or folder in path.parents:
                cause, own = registry.one_line(error), plugins[0]
                checked = [plugin.name for plugin in plugins if plugin.kind in ("modality", "task")]
                rest = f", and try the rest with bridgeflow plugins check {checked[0]}" if checked else ""
                return (
                    f"`{frame.name}` of {own.distribution} {own.version} failed ({cause}; {path}, line "
                    f"{frame.lineno}): mend it there{rest}."
                )
    return None


def _folder(plugin: Plugin) -> Path | None:
    """Where the source of a plugin that is not bridgeflow's own lies: its package's folder, or its module's file."""
    if registry.is_from(plugin, registry.OWN_DISTRIBUTION) or plugin.kind == "recipe":
        return None
    module = sys.modules.get(plugin.value.partition(":")[0].partition(".")[0])
    paths = getattr(module, "__path__", None)
    if paths:
        return Path(next(iter(paths)))
    file = getattr(module, "__file__", None)
    return Path(file) if file else None
