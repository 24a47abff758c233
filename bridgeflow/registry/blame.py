"""Whose code an error came from: a plugin's author fixes a plugin, and a report is for bridgeflow's own."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bridgeflow import registry
from bridgeflow.registry import Plugin

CHECKED = ("modality", "task", "tracker")
"""Kinds of plugins that `bridgeflow plugins check` knows."""


def sentence_on(error: BaseException) -> str | None:
    """One sentence on an error that was raised in the code of a plugin: where, what, and the fix. None where no
    plugin but bridgeflow's own took part."""
    folders: dict[Path, list[Plugin]] = {}
    for plugin in registry.installed():
        folder = _folder(plugin)
        if folder is not None:
            folders.setdefault(folder, []).append(plugin)
    frames = list(traceback.walk_tb(error.__traceback__))
    for place, (frame, line) in reversed(list(enumerate(frames))):
        path = Path(frame.f_code.co_filename)
        for folder, plugins in folders.items():
            if folder == path or folder in path.parents:
                cause, own = registry.one_line(error), plugins[0]
                concerned = _concerned([frame for frame, _ in frames[: place + 1]], plugins)
                rest = f", and try the rest with bridgeflow plugins check {concerned.name}" if concerned else ""
                return (
                    f"`{frame.f_code.co_name}` of {own.distribution} {own.version} failed ({cause}; {path}, line "
                    f"{line}): fix it there{rest}."
                )
    return None


def _concerned(frames: Sequence[FrameType], plugins: Sequence[Plugin]) -> Plugin | None:
    """The plugin that has checks and whose method was at work in the innermost frame that was one's, or None."""
    for frame in reversed(frames):
        own = frame.f_locals.get("self", frame.f_locals.get("cls"))
        plugin = registry.plugin_of(own if isinstance(own, type) else type(own), plugins)
        if plugin is not None:
            return plugin if plugin.kind in CHECKED else None
    return None


def _folder(plugin: Plugin) -> Path | None:
    """Where the source of a plugin that is not bridgeflow's own lies: its package's folder, or its module's file."""
    if registry.is_from(plugin, registry.OWN_DISTRIBUTION) or plugin.kind == "recipe":
        return None
    module = sys.modules.get(plugin.value.partition(":")[0].partition(".")[0])
    paths: Any = getattr(module, "__path__", None)
    if paths:
        return Path(next(iter(paths)))
    file = getattr(module, "__file__", None)
    return Path(file) if file else None
