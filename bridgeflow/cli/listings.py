"""`bridgeflow tasks|recipes|plugins`: what is installed, read from metadata alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from bridgeflow.cli.checking import check
from bridgeflow.cli.options import json_option
from bridgeflow.cli.output import emit
from bridgeflow.cli.scaffolding import new


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    if not rows:
        emit("none installed")
        return
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    for row in [{key: key for key in widths}, *rows]:
        emit("  ".join(f"{row[key]:<{width}}" for key, width in widths.items()).rstrip())


@click.group()
def tasks() -> None:
    """See the installed tasks."""


@tasks.command("list")
@json_option
def list_tasks(as_json: bool) -> None:
    """Every task, its recipes and who offers it."""
    from bridgeflow import registry

    found: dict[str, list[str]] = {}
    for name, _, _ in registry.recipe_files():
        found.setdefault(name.partition("/")[0], []).append(name)
    rows = [
        {
            "task": p.name,
            "recipes": ", ".join(found.get(p.name, [])),
            "distribution": f"{p.distribution} {p.version}",
        }
        for p in registry.installed("task")
    ]
    _print(rows, as_json)


def _about(file: Path) -> str:
    """The first line of a recipe, a comment that says what it is for."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            first = lines.readline(1000).strip()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return first.removeprefix("#").strip() if first.startswith("#") else ""


@click.group()
def recipes() -> None:
    """See the installed recipes."""


@recipes.command("list")
@click.option("--task", metavar="NAME", help="Recipes of one task.")
@json_option
def list_recipes(task: str | None, as_json: bool) -> None:
    """Every recipe: whether a model is installed with it, and a line on what it is for."""
    from bridgeflow import registry
    from bridgeflow.registry.naming import plain

    if task is not None:
        if not registry.offering("task", task):
            raise registry.unknown("task", task, {plugin.name for plugin in registry.installed("task")})
        task = plain(task)
    rows = [
        {
            "recipe": name,
            "model": "installed" if (file.with_suffix("") / "meta.json").is_file() else "",
            "about": _about(file),
            "distribution": f"{plugin.distribution} {plugin.version}",
        }
        for name, file, plugin in registry.recipe_files()
        if task is None or name.startswith(f"{task}/")
    ]
    _print(rows, as_json)


@recipes.command("show")
@click.argument("name")
@click.option("--resolved", is_flag=True, help="With every default written out.")
@json_option
def show_recipe(name: str, resolved: bool, as_json: bool) -> None:
    """A recipe as YAML, with what it extends laid under it."""
    from bridgeflow.config import layers

    tree: dict[str, Any] = layers.read(name)
    if resolved:
        from bridgeflow.config import recipe

        tree = recipe.resolve(tree, name).tree()
    if as_json:
        emit(json.dumps(tree, indent=1, ensure_ascii=False))
        return
    emit(layers.dump(tree), end="")


@click.group()
def plugins() -> None:
    """See the installed plugins and who offers them."""


plugins.add_command(new)
plugins.add_command(check)


def _check_kind(kind: str | None) -> None:
    from bridgeflow import registry

    if kind is not None and kind not in registry.GROUPS:
        raise click.UsageError(f"no kind {kind!r}: one of {', '.join(registry.GROUPS)} is expected.")


@plugins.command(
    "list",
    epilog="Status: ok; broken; other contract (written for another version of bridgeflow's contract); twice (two "
    "distributions offer the name); not loaded; not installed yet (added to an editable installation since).",
)
@click.option("--kind", metavar="KIND", help="modality, task, recipe, dataset, network, importer or tracker.")
@click.option(
    "--load/--no-load",
    default=None,
    help="Load every plugin, or none, to see whether it works; without it those of other distributions.",
)
@json_option
def list_plugins(kind: str | None, load: bool | None, as_json: bool) -> None:
    """Every plugin with its status, distribution and version.

    Plugins are loaded one by one in another process; bridgeflow's own are known to work.
    """
    from bridgeflow import registry
    from bridgeflow.registry import probe

    _check_kind(kind)
    found = registry.installed(kind)
    loading = probe.to_load(found, load)
    if loading:
        names = ", ".join(dict.fromkeys(plugin.distribution for plugin in loading))
        print(
            f"loading {len(loading)} plugins of {names} to see whether they work; --no-load does not", file=sys.stderr
        )
    verdicts = probe.verdicts(found, load)
    for plugin, folder in registry.declared():
        if kind in (None, plugin.kind):
            cause = f"the {plugin.kind} {plugin.name!r} is not installed yet: {registry.not_yet(plugin, folder)}."
            verdicts[plugin] = probe.Verdict("not installed yet", cause)
    rows = [
        {
            "kind": p.kind,
            "name": p.name,
            "status": verdict.status,
            "distribution": p.distribution,
            "version": p.version,
            "object": p.value,
            "cause": verdict.cause,
            "notes": list(verdict.notes),
        }
        for p, verdict in verdicts.items()
    ]
    if as_json:
        _print(rows, as_json)
    else:
        _print([{key: value for key, value in row.items() if key not in ("cause", "notes")} for row in rows], as_json)
        for sentence in dict.fromkeys(s for verdict in verdicts.values() for s in (verdict.cause, *verdict.notes) if s):
            emit(f"\n{sentence}")
    for sentence in registry.damaged():
        print(f"bridgeflow: {sentence}", file=sys.stderr)


@plugins.command("info")
@click.argument("name")
@click.option("--kind", metavar="KIND", help="Kind, where several plugins share the name.")
@json_option
def plugin_info(name: str, kind: str | None, as_json: bool) -> None:
    """One plugin: what it is, who offers it, and its options."""
    from bridgeflow import registry
    from bridgeflow.cli.describe import describe_plugin

    _check_kind(kind)
    kinds = [kind] if kind is not None else list(registry.GROUPS)
    matching = [plugin for own in kinds for plugin in registry.offering(own, name)]
    if not matching:
        raise registry.unknown(kind or "plugin", name, {p.name for k in kinds for p in registry.installed(k)})
    facts = [describe_plugin(plugin) for plugin in matching]
    if as_json:
        emit(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for number, fact in enumerate(facts):
        if number:
            emit()
        for key, value in fact.items():
            if key != "options":
                emit(f"{key:<14} {value}")
        for option in fact["options"]:
            emit(f"  {option['key']} = {json.dumps(option['default'])}")
            if option["help"]:
                emit(f"      {option['help']}")
