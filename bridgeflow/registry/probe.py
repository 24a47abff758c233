"""Whether plugins work: each is loaded in another process, so that none can harm or hold up the one that asks."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from bridgeflow import registry
from bridgeflow.errors import PluginWarning
from bridgeflow.registry import Plugin, PluginError, Status, installation
from bridgeflow.runtime.stdout import redirected
from bridgeflow.sentences import bounded

SECONDS = 60.0
"""How long a plugin may take to load; the first one waits for torch too."""

_CHILD = """
import json, sys
given = json.load(sys.stdin)
sys.path[:] = given["path"]
from bridgeflow.registry import probe
probe.answer(given["plugins"])
"""


@dataclass(frozen=True)
class Verdict:
    """How a plugin is, and where it is not well, why: one sentence with the fix."""

    status: Status
    cause: str = ""
    notes: tuple[str, ...] = ()
    """A sentence for whatever else importing it does that its author should fix, though it works."""


def is_own(plugin: Plugin) -> bool:
    """Whether bridgeflow itself offers the plugin."""
    return registry.is_from(plugin, registry.OWN_DISTRIBUTION)


def seen(plugins: Sequence[Plugin]) -> dict[Plugin, Verdict]:
    """What is known of plugins without importing them: 'twice', a 'broken' package of recipes, 'ok' for what is
    well with bridgeflow and a package of recipes that is there, and 'not loaded' for the others."""
    places = {plugin for plugin, _ in registry.recipe_folders()}
    verdicts: dict[Plugin, Verdict] = {}
    for plugin in plugins:
        same = [p for p in registry.installed(plugin.kind) if p.name == plugin.name]
        if plugin.kind == "recipe":
            missing = ModuleNotFoundError(f"No module named {plugin.value!r}", name=plugin.value)
            verdicts[plugin] = (
                Verdict("ok") if plugin in places else Verdict("broken", registry.failure(plugin, missing))
            )
        elif len(same) > 1:
            verdicts[plugin] = Verdict("twice", registry.clash(same))
        else:
            verdicts[plugin] = Verdict("ok" if is_own(plugin) else "not loaded")
    return verdicts


def loaded(plugins: Sequence[Plugin], seconds: float = SECONDS) -> dict[Plugin, Verdict]:
    """What loading each plugin shows: 'ok', 'broken' or 'other contract'.

    One other process loads them one after the other. Where a plugin ends that process, or takes longer than
    `seconds`, it is broken, and another process goes on with those behind it.
    """
    verdicts: dict[Plugin, Verdict] = {}
    left = list(plugins)
    while left:
        answers, end = _ask(left, seconds)
        verdicts.update(zip(left, answers, strict=False))
        left = left[len(answers) :]
        if left:
            verdicts[left[0]] = Verdict("broken", ended(left[0], end))
            left = left[1:]
    return verdicts


def ended(plugin: Plugin, end: str) -> str:
    """The sentence for a plugin that ends the process which imports it, or takes too long: `end` says which."""
    fix = f"{installation.reinstall_command(plugin.distribution)}, or leave it out with BRIDGEFLOW_PLUGINS"
    return f"{plugin.title} cannot be loaded ({end}): {fix}."


def verdicts(plugins: Sequence[Plugin], load: bool | None = None) -> dict[Plugin, Verdict]:
    """How each plugin is. load: whether all are loaded for it, or none; None loads those of other distributions."""
    found = seen(plugins)
    for plugin, verdict in loaded(to_load(plugins, load)).items():
        # A name that is offered twice cannot be used, however well each of the two is.
        if verdict.status != "ok" or found[plugin].status != "twice":
            found[plugin] = verdict
    return found


def to_load(plugins: Sequence[Plugin], load: bool | None = None) -> list[Plugin]:
    """The plugins that `verdicts` loads; never a package of recipes, of which only the place counts."""
    chosen = [] if load is False else [plugin for plugin in plugins if load or not is_own(plugin)]
    return [plugin for plugin in chosen if plugin.kind != "recipe"]


def _ask(plugins: Sequence[Plugin], seconds: float) -> tuple[list[Verdict], str]:
    """The verdicts on the first plugins of several, and what ended the process before it came to the others."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    answers: list[Verdict] = []
    end = ""
    try:
        # A process that ends before it reads is recognised by what it did not answer.
        with contextlib.suppress(BrokenPipeError), process.stdin or contextlib.nullcontext() as stream:
            print(json.dumps({"path": sys.path, "plugins": [asdict(p) for p in plugins]}), file=stream)
        ready = lines.get(timeout=max(seconds, SECONDS))
        while len(answers) < len(plugins):
            line = lines.get(timeout=seconds) if ready is not None else None
            if line is None:
                end = f"importing it ended the process with code {process.wait()}"
                break
            answers.append(_verdict(json.loads(line)))
    except queue.Empty:
        end = f"importing it takes longer than {seconds:.0f} seconds"
    finally:
        process.kill()
        process.wait()
    return answers, end


def _verdict(facts: dict[str, Any]) -> Verdict:
    return Verdict(**{**facts, "notes": tuple(facts["notes"])})


def watched(plugin: Plugin) -> tuple[str, ...]:
    """Loads a plugin in this process; sentences on what that does besides: it prints on stdout, it changes the working
    folder, it takes long. Raises what `Plugin.load` does."""
    # A list of plugins imports this module and has to be quick.
    import tempfile

    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PluginWarning)
            with redirected(said):
                registry.load_plugin(plugin)
        notes = [str(own.message) for own in caught if issubclass(own.category, PluginWarning)]
        printed = first_line(said)
    if printed:
        notes.append(
            f"importing {plugin.title} prints {printed!r} on stdout, where results belong: log it, or print it to "
            "sys.stderr."
        )
    return tuple(notes)


def first_line(file: TextIO) -> str:
    """The first line that says something of a file that was written; empty where none does."""
    file.seek(0)
    return bounded(next((line.strip() for line in file if line.strip()), ""), 100)


def answer(plugins: Sequence[dict[str, str]]) -> None:
    """The other process: loads plugins and writes a line of JSON for each to what was stdout when it began; before them
    an empty one, once what all plugins need is there."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        # Whatever a plugin prints goes where nobody reads it.
        os.dup2(2, 1)
        for kind in {facts["kind"] for facts in plugins} & registry.BASES.keys():
            importlib.import_module(registry.BASES[kind].partition(":")[0])
        print(file=out, flush=True)
        for facts in plugins:
            plugin = Plugin(**facts)
            try:
                verdict = Verdict("ok", notes=watched(plugin))
            except PluginError as error:
                verdict = Verdict(error.status, str(error))
            except KeyboardInterrupt as error:
                verdict = Verdict("broken", registry.failure(plugin, error))
            print(json.dumps(asdict(verdict)), file=out, flush=True)
        # A thread that a plugin left running must not keep the process.
        os._exit(0)
