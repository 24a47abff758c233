"""`bridgeflow reflow`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridgeflow.cli.caching import print_cache
from bridgeflow.cli.options import (
    LOADING,
    data_options,
    device_option,
    json_option,
    parse_columns,
    set_sampling,
    solver_option,
)
from bridgeflow.runtime import launch


@click.command(
    epilog="Examples:\n\n\b\n"
    "  bridgeflow reflow --checkpoint t2i/blocks-full -o pairs\n"
    "  bridgeflow reflow --checkpoint runs/flow -o pairs --steps 20 --guidance 3 data.size=16384\n"
    "  bridgeflow train --task t2i --from t2i/blocks-full --data cache:pairs time.density=power time.power=8"
)
@click.option("--checkpoint", required=True, metavar="DIR", help="Run or checkpoint whose flows are run.")
@data_options
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder of the pairs, which is a cache.")
@click.option("--steps", type=click.IntRange(min=1), help="Solver steps; the checkpoint's by default.")
@solver_option
@click.option("--guidance", type=float, metavar="SCALE", help="Scale of the guidance; 1 is none.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the starts.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Data type (dtype) of the files.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows run together.")
@click.option(
    "--variants",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Starts for each training row; epochs take them in turn.",
)
@device_option
@json_option
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
def reflow(
    checkpoint: str,
    data: str | None,
    columns: tuple[str, ...],
    output: str,
    steps: int | None,
    solver: str | None,
    guidance: float | None,
    seed: int,
    dtype: Any,
    batch_size: int,
    variants: int,
    device: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Run a model's flows once and keep where each began and ended, to train a straighter one on.

    The pairs are a cache: 'bridgeflow train --task TASK --from DIR --data cache:PAIRS' goes on with the model's weights
    on them, without null rows and guidance, which the pairs have in them. Such a flow needs fewer steps; trained near
    t = 0 alone (time.density=power time.power=8), one. Killed and started again, it goes on at the first missing file.
    """
    from bridgeflow.runtime.console import Progress

    console = Progress()
    with console.doing(LOADING):
        from bridgeflow.caching.reflow import Reflow, recipe_of
        from bridgeflow.caching.write import CacheOptions, write_cache
        from bridgeflow.checkpoints.finding import find_checkpoint
        from bridgeflow.config import layers
        from bridgeflow.config import recipe as recipes
    tree: dict[str, Any] = {} if data is None else {"data": recipes.data_section(data)}
    for assignment in overrides:
        if not assignment.startswith("data.") or "=" not in assignment:
            raise click.UsageError(f"{assignment!r} is no data.KEY=VALUE: nothing else of the checkpoint's may change.")
        tree = layers.override(tree, assignment)
    if columns:
        tree["columns"] = parse_columns(columns)
    with console.doing("opening the checkpoint"):
        opened = find_checkpoint(checkpoint)
    recipe = recipe_of(opened, tree)
    flow = Reflow(opened, lambda pipeline: set_sampling(pipeline, steps, solver, guidance), seed)
    options = CacheOptions(dtype, variants, batch_size)
    written = write_cache(recipe, Path(output), options, device, console, flow)
    if launch.rank() != 0:
        return 0
    print_cache(Path(output), written, as_json, console)
    console.say(f"next: bridgeflow train --task {recipe.task_name} --from {checkpoint} --data cache:{output}")
    return 0
