"""`bridgeflow data`."""

from __future__ import annotations

import json

import click

from bridgeflow.cli.options import check_recipe, data_options, find_task, json_option, parse_columns, task_option


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
    """Read every row as training would, and name what is missing or cannot be read."""
    declared = find_task(task)
    from bridgeflow import api
    from bridgeflow import recipe as recipes
    from bridgeflow.assembly import assemble
    from bridgeflow.console import Progress
    from bridgeflow.data.check import check_rows
    from bridgeflow.data.rows import Rows, Split
    from bridgeflow.sentences import printable
    from bridgeflow.training.start import open_rows

    console = Progress()
    name = recipe or api.default_recipe(declared, task, data)
    resolved = recipes.load(name, overrides, data, parse_columns(columns))
    check_recipe(resolved.name, resolved.recipe.task, task)
    assembly = assemble(resolved)
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
            resolved.recipe.columns,
            limit,
            lambda done, total, split=split: console(done, total, f"reading {split} rows", "rows"),  # type: ignore[misc]
        )
        console.clear()
        facts[split] = {
            "data": rows.description,
            "columns": rows.columns,
            "rows": checked.rows,
            "unusable": checked.unusable,
            "broken": checked.broken,
        }
        broken += checked.broken
        unusable += checked.unusable
        if not as_json:
            good = checked.rows - checked.unusable
            print(printable(f"{split:<9} {rows.description}: {good:,} of {checked.rows:,} rows read can be used"))
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        for sentence in broken[:50]:
            print(f"  {sentence}")
        if unusable > 50:
            print(f"  and {unusable - 50:,} more; --json lists {'them all' if unusable == len(broken) else 'more'}")
    return 1 if unusable else 0
