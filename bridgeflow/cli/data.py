"""`bridgeflow data`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from bridgeflow.cli.options import check_recipe, data_options, find_task, json_option, parse_columns, task_option
from bridgeflow.cli.output import emit

if TYPE_CHECKING:
    from bridgeflow.assembly import Assembly
    from bridgeflow.config.recipe import Recipe


@click.group()
def data() -> None:
    """Look at data before training does."""


@data.command(
    short_help="Name the rows that training could not use.",
    epilog="Examples:\n\n\b\n"
    "  bridgeflow data check --task depth --data folder:scans\n"
    "  bridgeflow data check --task caption --data folder:photos --columns text=title source.size=128",
)
@task_option()
@data_options
@click.option("--limit", type=click.IntRange(min=1), help="Rows to read at most.")
@click.option("--recipe", metavar="NAME|FILE", help="Recipe to read for; the one that train would take by default.")
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
def check(
    task: str,
    data: str | None,
    columns: tuple[str, ...],
    limit: int | None,
    recipe: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Read every row as training would, held-out ones as scoring would, and name what is missing or cannot be read."""
    from bridgeflow.assembly.preparing import open_rows
    from bridgeflow.data.advice import advice
    from bridgeflow.data.check import check_rows
    from bridgeflow.data.rows import Rows, Split
    from bridgeflow.runtime.console import Progress
    from bridgeflow.sentences import printable

    console = Progress()
    resolved, assembly = _assembled(task, data, columns, recipe, overrides)
    facts: dict[str, object] = {}
    broken: list[str] = []
    unusable = 0
    splits: tuple[Split, ...] = ("train", "held_out")
    for split in splits:
        rows = open_rows(resolved, split, console)
        if isinstance(rows, Rows) and len(rows) == 0:
            continue
        checked = check_rows(
            rows,
            assembly.task,
            resolved.columns,
            limit,
            lambda done, total, split=split: console(done, total, f"reading {split} rows", "rows"),  # type: ignore[misc]
            held_out=split == "held_out",
        )
        console.clear()
        advised = advice(rows, assembly.task, resolved.columns, limit) if not facts else []
        facts[split] = {
            "data": rows.description,
            "columns": rows.columns,
            "rows": checked.rows,
            "unusable": checked.unusable,
            "broken": checked.broken,
            "advice": advised,
        }
        broken += checked.broken
        unusable += checked.unusable
        if not as_json:
            good = checked.rows - checked.unusable
            for sentence in advised:
                console.warn(sentence)
            emit(printable(f"{split:<9} {rows.description}: {good:,} of {checked.rows:,} rows read can be used"))
    if as_json:
        emit(json.dumps(facts, indent=1))
    else:
        for sentence in broken[:50]:
            emit(f"  {sentence}")
        if unusable > 50:
            emit(f"  and {unusable - 50:,} more; --json lists {'them all' if unusable == len(broken) else 'more'}")
    return 1 if unusable else 0


@data.command(
    short_help="Write a few rows as files.",
    epilog="Examples:\n\n\b\n"
    "  bridgeflow data export --task caption -o scenes\n"
    "  bridgeflow run --task caption scenes\n"
    "  bridgeflow data export --task depth --data hf:sayakpaul/nyu_depth_v2 --count 100 -o rooms",
)
@task_option()
@data_options
@click.option("--count", type=click.IntRange(min=1), default=8, show_default=True, help="Rows to write.")
@click.option(
    "--split",
    type=click.Choice(["train", "held_out"]),
    default="held_out",
    show_default=True,
    help="Rows of which split.",
)
@click.option(
    "--recipe", metavar="NAME|FILE", help="Recipe whose data it is; the one that train would take by default."
)
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder for the files; absent or empty.")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
def export(
    task: str,
    data: str | None,
    columns: tuple[str, ...],
    count: int,
    split: str,
    recipe: str | None,
    output: str,
    overrides: tuple[str, ...],
) -> int:
    """Write the first rows of a data set as files: to look at, to run on, or to train on as folder:DIR."""
    from pathlib import Path

    from bridgeflow.assembly.preparing import open_rows
    from bridgeflow.data.writing import write_rows
    from bridgeflow.runtime.console import Progress

    console = Progress()
    resolved, assembly = _assembled(task, data, columns, recipe, overrides)
    rows = open_rows(resolved, split, console)  # type: ignore[arg-type]
    written = write_rows(
        rows,
        assembly.task,
        resolved.columns,
        count,
        Path(output),
        lambda done, total: console(done, total, "writing", "rows"),
    )
    console.clear()
    for sentence in written.broken:
        console.warn(sentence)
    source = assembly.source
    own = Path(output) / source.column
    then = f"train --task {task} --data folder:{output}"
    if not source.textual:
        then = f"run --task {task} {own if own.is_dir() else output}"
        then += "".join(f" --with {name}=VALUE" for name in resolved.conditions)
    console.say(f"{written.rows:,} rows of {rows.description} in {output}   next: bridgeflow {then}")
    for path in written.files:
        emit(path)
    return 1 if written.broken else 0


def _assembled(
    task: str, data: str | None, columns: tuple[str, ...], recipe: str | None, overrides: tuple[str, ...]
) -> tuple[Recipe, Assembly]:
    """The recipe that the options name, and its task and modalities."""
    declared = find_task(task)
    from bridgeflow import api
    from bridgeflow.assembly import assemble
    from bridgeflow.config import recipe as recipes

    name = recipe or api.default_recipe(declared, task, data)
    resolved = recipes.load(name, overrides, data, parse_columns(columns))
    check_recipe(resolved.name, resolved.task_name, task)
    return resolved, assemble(resolved)
