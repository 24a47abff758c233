"""The plugins that a checkpoint needs: noted when it is written, looked for when it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridgeflow import registry
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.registry import Plugin, installation
from bridgeflow.registry.installation import OWN_DISTRIBUTION, identity
from bridgeflow.registry.naming import plain

LOCAL = "local"


def noted(plugins: Iterable[Plugin]) -> list[dict[str, str]]:
    """What a checkpoint notes of each plugin: kind, name, distribution, version.

    `origin` is added for one that is of no package index: its URL where others can reach it, else 'local'.
    """
    notes: list[dict[str, str]] = []
    for p in plugins:
        note = {"kind": p.kind, "name": p.name, "distribution": p.distribution, "version": p.version}
        origin = "" if registry.is_from(p, OWN_DISTRIBUTION) else _origin(p.distribution)
        notes.append({**note, "origin": origin} if origin else note)
    return notes


def plugins_in(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The notes in the facts of a checkpoint, with this distribution by the name that it has now; none where there
    are none."""
    return [
        {**note, "distribution": OWN_DISTRIBUTION}
        if identity(str(note.get("distribution"))) == OWN_DISTRIBUTION
        else dict(note)
        for note in facts.get("plugins", [])
    ]


def _origin(distribution: str) -> str:
    came_from = installation.origin(installation.installed_distribution(distribution))
    return LOCAL if str(came_from.get("url", "")).startswith("file:") else installation.requirement(came_from)


def check_installed(needed: Sequence[Mapping[str, Any]], what: str) -> None:
    """Raises BridgeflowError, one sentence that says what to install, where a plugin of `noted` is not to be had.

    what: what the sentence calls the checkpoint, such as "checkpoint 'runs/depth-blocks-01'".
    """
    missing = [note for note in needed if not _offers(note)]
    if not missing:
        return
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for note in missing:
        groups.setdefault(str(note["distribution"]), []).append(note)
    lacks, fixes, to_install = [], [], []
    for distribution, own in groups.items():
        names = " and ".join(f"the {note['kind']} {note['name']!r}" for note in own)
        found = installation.installed_distribution(distribution)
        here = installation.name_and_version(found)[1] if found is not None else None
        lack = f"{names} of {distribution} {own[0]['version']}, which is not installed"
        if here is not None and registry.is_allowed(distribution):
            lack = (
                f"{names} of {distribution} {own[0]['version']}, which version {here}, installed here, does not offer"
            )
        elif here is not None:
            lack = f"{names} of {distribution} {here}, which BRIDGEFLOW_PLUGINS leaves out"
            fixes.append(f"add {distribution} to that variable")
        if here is None or registry.is_allowed(distribution):
            to_install.append(own[0])
        lacks.append(lack)
    if to_install:
        fixes.insert(0, _install(to_install))
    raise BridgeflowError(f"{what} needs {', and '.join(lacks)}: {'; '.join(fixes)}.")


def differences(needed: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each distribution that is installed in another version than the checkpoint was written with, and
    for each plugin that another distribution offers now."""
    sentences: dict[str, None] = {}
    for note in needed:
        offering = [p for p in registry.installed(note["kind"]) if p.name == note["name"]]
        if not offering:
            continue
        same = [p for p in offering if registry.is_from(p, note["distribution"])]
        before = f"{note['distribution']} {note['version']}"
        if not same:
            sentences[
                f"the {note['kind']} {note['name']!r} was {before}'s when the checkpoint was written, and is "
                f"{offering[0].distribution} {offering[0].version}'s here."
            ] = None
        elif same[0].version != note["version"]:
            sentences[
                f"the checkpoint was written with {before}, and {same[0].version} is installed: should results "
                f"differ, {_install([note])}."
            ] = None
    return list(sentences)


def is_of_task(facts: Mapping[str, Any], task: str) -> bool:
    """Whether the facts of a checkpoint are those of a task, by the task's name: 'depth' or 'distribution:depth'."""
    own = str(facts.get("task"))
    notes = [note for note in plugins_in(facts) if note.get("kind") == "task"]
    home = str(notes[0]["distribution"]) if notes else own.rpartition(":")[0]
    meant, theirs = registry.offering("task", task), registry.offering("task", own)
    if not meant or not theirs:
        wanted, _, name = task.rpartition(":")
        return name == plain(own) and (not wanted or identity(wanted) == identity(home))
    at_home = [plugin for plugin in theirs if registry.is_from(plugin, home)]
    return not set(meant).isdisjoint(at_home or theirs)


def check_unambiguous(kind: str, name: str) -> None:
    """Raises UsageError where several distributions offer a name that a user gave."""
    offering = registry.offering(kind, name)
    if len(offering) > 1:
        raise UsageError(registry.clash(offering))


def _offers(note: Mapping[str, Any]) -> bool:
    """Whether the plugin is to be had: of its own distribution, or else of the only one that offers the name."""
    offering = registry.offering(note["kind"], note["name"])
    return len(offering) == 1 or any(registry.is_from(plugin, note["distribution"]) for plugin in offering)


def _install(notes: Sequence[Mapping[str, Any]]) -> str:
    """What gets those distributions; another version of this one comes from where this one came from."""
    ours = [note for note in notes if note["distribution"] == OWN_DISTRIBUTION]
    others = [note for note in notes if note not in ours]
    fixes = [f"use {OWN_DISTRIBUTION} {note['version']}" for note in ours]
    if others:
        command = f"pip install {' '.join(_requirement(note) for note in others)}"
        if any(note.get("origin") == LOCAL for note in others):
            command += ", or the wheel or folder that it was installed from where no package index has it"
        fixes.append(command)
    return "; ".join(fixes)


def _requirement(note: Mapping[str, Any]) -> str:
    """What pip is to install, quoted for a shell."""
    origin = str(note.get("origin", LOCAL))
    if origin == LOCAL:
        return f'"{note["distribution"]}=={note["version"]}"'
    return f'"{note["distribution"]} @ {origin}"'
