"""Checks of what a plugin declares: its entry point, its options, its waivers. They need no data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from bridgeflow.registry import Plugin
from bridgeflow.settings import Settings
from bridgeflow.testing.fresh import imported_elsewhere
from bridgeflow.testing.outcome import Fault, calling, described

UNKNOWN = "no_such_option"
LISTING = """
import json, sys
from bridgeflow import registry
plugins = [(p.kind, p.name, p.distribution) for p in registry.installed()]
registry.recipe_files()
print(json.dumps({"plugins": plugins, "modules": sorted(sys.modules)}))
"""
HEAVY = ("torch", "numpy", "pydantic")


def check_listing(plugin: Plugin | None) -> str | None:
    """Lists the plugins in a fresh process, as `bridgeflow plugins list` does, and looks at what it imported."""
    if plugin is None:
        return "a class that no entry point names is not listed"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-P", "-c", LISTING],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Fault(f"listing the plugins fails ({last}): fix the metadata of {plugin.distribution}.")
    listed = json.loads(done.stdout.strip().splitlines()[-1])
    if [plugin.kind, plugin.name, plugin.distribution] not in listed["plugins"]:
        raise Fault(
            f"a fresh process does not list {plugin.name!r}: install {plugin.distribution} again (pip install -e .)."
        )
    own = plugin.value.partition(":")[0]
    imported = [name for name in (*HEAVY, own) if name in listed["modules"]]
    if imported:
        raise Fault(
            f"listing the plugins imports {imported[0]!r}: let nothing of {plugin.distribution} run when Python "
            "starts (a .pth file, a sitecustomize.py), so that `plugins list` stays quick."
        )
    return None


def check_import(plugin: Plugin | None) -> str | None:
    """Imports the plugin in a fresh process, and looks at what that does to it besides."""
    if plugin is None:
        return "a class that no entry point names is imported by whoever uses it"
    # What takes long again was not held up by chance.
    notes = imported_elsewhere(plugin) and imported_elsewhere(plugin)
    if notes:
        raise Fault(notes[0])
    return None


def check_options(chosen: Settings) -> str | None:
    """Defaults, the way through JSON and back, unknown keys, and that nothing can be set afterwards."""
    model = type(chosen)
    try:
        text = chosen.model_dump_json()
        back = type(chosen).model_validate_json(text)
    except (ValidationError, ValueError, TypeError) as error:
        raise Fault(
            f"the options do not come back from JSON ({described(error)}): use types that pydantic writes and reads."
        ) from error
    if back != chosen:
        lost = next((name for name in model.model_fields if getattr(back, name) != getattr(chosen, name)), "Options")
        raise Fault(f"the option {lost!r} comes back from JSON as another value: use a type that JSON can hold.")
    tree = chosen.model_dump(mode="json")
    for place, spoilt in with_unknown_keys(chosen, tree):
        try:
            model.model_validate(spoilt)
        except ValidationError:
            continue
        name = f"`{place}`" if place else "`Options`"
        raise Fault(
            f"{name} takes the unknown key {UNKNOWN!r} without a word: inherit from bridgeflow.settings.Settings "
            'and leave its extra="forbid".'
        )
    if model.model_fields and not model.model_config.get("frozen"):
        raise Fault("`Options` can be changed after it is made: leave the `frozen=True` of Settings as it is.")
    return None if model.model_fields else "there are no options"


def with_unknown_keys(settings: BaseModel, tree: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, tree) with an unknown key put into each section of options in turn; the place of the whole is ''."""
    yield "", {**tree, UNKNOWN: 1}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel) and isinstance(tree.get(name), Mapping):
            for place, spoilt in with_unknown_keys(value, tree[name]):
                yield f"{name}.{place}".rstrip("."), {**tree, name: spoilt}


def check_waivers(waived: Any, known: Iterable[str]) -> str | None:
    """Every waiver names a check and gives a reason."""
    names = list(known)
    if not isinstance(waived, Mapping):
        raise Fault('`waived` is no mapping: write it as {"name of a check": "why it does not suit"}.')
    for name, reason in waived.items():
        if name not in names:
            raise Fault(f"`waived` names {name!r}, which is no check: take it out, or name one of {', '.join(names)}.")
        if not isinstance(reason, str) or not reason.strip():
            raise Fault(f"the waiver of {name!r} gives no reason: say in a few words why the check does not suit.")
    if "waivers" in waived:
        raise Fault("the check 'waivers' cannot be waived itself: take it out of `waived`.")
    return f"{len(waived)} waived" if waived else None


def check_declared(kind: type[Any]) -> None:
    """The line that `plugins info` shows."""
    with calling("summary"):
        summary = kind.summary
    if not isinstance(summary, str) or not summary.strip() or "\n" in summary:
        raise Fault("`summary` says nothing: set it to one line that tells people what this is.")
