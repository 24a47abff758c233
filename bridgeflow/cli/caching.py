"""`bridgeflow cache`, and `cache info|verify`."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import click

from bridgeflow.cli.options import (
    LOADING,
    check_recipe,
    data_options,
    device_option,
    find_task,
    json_option,
    parse_columns,
    task_option,
)
from bridgeflow.cli.output import emit
from bridgeflow.runtime import launch

EPILOG = (
    "Examples:\n\n\b\n"
    "  bridgeflow cache --task t2i --data folder:photos -o latents\n"
    "  bridgeflow cache --task superres --data folder:photos -o cuts --variants 4 --dtype bfloat16\n"
    "  bridgeflow cache info latents\n"
    "  accelerate launch -m bridgeflow cache --task depth -o latents"
)


class _Itself(click.Command):
    """The command that a group's own name stands for."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """A context that is called as the group is."""
        own = parent.info_name if parent is not None else info_name
        return super().make_context(own, args, parent=parent.parent if parent is not None else None, **extra)


class CacheGroup(click.Group):
    """`cache OPTIONS` makes a cache; `cache info` and `cache verify` look at one."""

    itself: click.Command
    """What `cache` does by itself."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leaves everything but a command and a call for help to `cache` itself."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or `cache` itself; suggests the nearest command for a word that is no override."""
        if args[0]:
            return super().resolve_command(ctx, args)
        word = args[1]
        if not word.startswith("-") and "=" not in word:
            near = difflib.get_close_matches(word, self.commands, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no command {word!r}.{hint} Commands: {', '.join(self.commands)}.", ctx)
        return "", self.itself, args[1:]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help of `cache` itself, then the commands."""
        self.itself.format_usage(ctx, formatter)
        self.itself.format_help_text(ctx, formatter)
        self.itself.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)
        self.itself.format_epilog(ctx, formatter)


@click.command("cache", cls=_Itself, epilog=EPILOG)
@task_option()
@click.option("--recipe", metavar="NAME|FILE", help="Recipe, as in 'bridgeflow recipes list', or a YAML file.")
@data_options
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder of the cache.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Data type (dtype) of the files.",
)
@click.option(
    "--variants",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Draws of each training row (a cut, one of its captions); epochs take them in turn.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows encoded together.")
@click.option("--shard-rows", type=click.IntRange(min=1), help="Rows in a file; what makes about 32 MB by default.")
@device_option
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
def encode(
    task: str,
    recipe: str | None,
    data: str | None,
    columns: tuple[str, ...],
    output: str,
    dtype: Any,
    variants: int,
    batch_size: int,
    shard_rows: int | None,
    device: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Encode both sides of every row once, with a recipe's frozen codecs, to train on.

    A codec that needs fitting is fitted first and kept with the latents. Killed and started again, it goes on at the
    first missing file. 'bridgeflow train --task TASK --data cache:DIR' trains on the result.
    """
    from bridgeflow.runtime.console import Progress

    console = Progress()
    with console.doing(LOADING):
        declared = find_task(task)
        from bridgeflow import api
        from bridgeflow.caching.write import CacheOptions, write_cache
        from bridgeflow.config import recipe as recipes
    name = recipe or api.default_recipe(declared, task, data)
    resolved = recipes.load(name, overrides, data, parse_columns(columns))
    check_recipe(resolved.name, resolved.task_name, task)
    written = write_cache(
        resolved, Path(output), CacheOptions(dtype, variants, batch_size, shard_rows), device, console
    )
    if launch.rank() != 0:
        return 0
    print_cache(Path(output), written, as_json, console)
    console.say(f"next: bridgeflow train --task {task} --data cache:{output}")
    return 0


def print_cache(folder: Path, written: Any, as_json: bool, console: Any) -> None:
    """What a finished cache holds, and which rows it does not."""
    unreadable = written.index.unreadable()
    for sentence in unreadable[:5]:
        console.warn(f"left out: {sentence}")
    if len(unreadable) > 5:
        console.warn(f"{len(unreadable):,} rows are left out; all are named in {folder / 'index.json'}")
    _print_facts(folder, written.index, as_json)
    if written.made == 0:
        console.say(f"{folder} was complete already; nothing was encoded")


@click.group(cls=CacheGroup, help=encode.help, epilog=EPILOG)
def cache() -> None:
    """`encode`, with commands below it."""


assert isinstance(cache, CacheGroup)
cache.itself = encode


@cache.command(short_help="Tell what a cache holds.", epilog="Examples:\n\n\b\n  bridgeflow cache info latents")
@click.argument("folder", metavar="DIR")
@json_option
def info(folder: str, as_json: bool) -> int:
    """Tell what a cache holds: rows, files, sizes, shapes, and what it was made from."""
    from bridgeflow.caching.index import SPLITS, read_index

    index = read_index(Path(folder), whole=False)
    if not index.complete:
        from bridgeflow.caching.notes import noted_shards

        index = index.model_copy(update={"shards": {split: noted_shards(Path(folder), split) for split in SPLITS}})
    _print_facts(Path(folder), index, as_json)
    return 0


@cache.command(short_help="Name the faults of a cache.", epilog="Examples:\n\n\b\n  bridgeflow cache verify latents")
@click.argument("folder", metavar="DIR")
@json_option
def verify(folder: str, as_json: bool) -> int:
    """Read every file of a cache, and name those that are missing, changed, or not as they should be."""
    from bridgeflow.caching.index import read_index
    from bridgeflow.caching.verify import verify as find_faults
    from bridgeflow.runtime.console import Progress

    console = Progress()
    index = read_index(Path(folder))
    faults = find_faults(Path(folder), index, lambda done, total: console(done, total, "reading shards"))
    console.clear()
    shards = sum(len(own) for own in index.shards.values())
    if as_json:
        emit(json.dumps({"shards": shards, "faults": faults}, indent=1))
    else:
        emit(f"{folder}: {shards:,} shards, {len(faults):,} with a fault")
        for fault in faults[:50]:
            emit(f"  {fault}")
        if len(faults) > 50:
            emit(f"  and {len(faults) - 50:,} more; --json lists them all")
    return 1 if faults else 0


def _print_facts(folder: Path, index: Any, as_json: bool) -> None:
    from bridgeflow.caching.verify import cache_facts

    facts = cache_facts(folder, index)
    if as_json:
        emit(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    emit(f"{'split':<10}{'rows':>12}{'left out':>10}{'shards':>9}{'size':>12}  data")
    for split in ("train", "held_out"):
        own = facts[split]
        size = f"{own['bytes'] / 1e6:,.1f} MB"
        emit(f"{split:<10}{own['rows']:>12,}{own['unreadable']:>10,}{own['shards']:>9,}{size:>12}  {own['data']}")
    emit()
    for side in ("source", "target"):
        own = facts[side]
        shape = "x".join(map(str, own["shape"]))
        conditions = [f"{name} {'x'.join(map(str, sizes))}" for name, sizes in own["conditions"].items()]
        beside = f"   with {', '.join(conditions)}" if conditions else ""
        emit(f"{side:<10}{own['modality']}   {own['layout']} {shape}{beside}   codec {own['fingerprint']}")
    emit(f"{'task':<10}{facts['task']}   recipe {folder / facts['recipe']}")
    for split in ("train", "held_out"):
        emit(f"{split:<10}fingerprint {facts[split]['fingerprint']}")
    emit(f"{'kept as':<10}{facts['dtype']}   variants {facts['variants']}   {facts['shard_rows']:,} rows a shard")
    if not facts["complete"]:
        emit("not finished: give the same bridgeflow cache command once more to go on")
