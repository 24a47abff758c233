"""`bridgeflow fit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bridgeflow.cli.options import LOADING, json_option
from bridgeflow.cli.output import emit


@click.command(
    epilog="Examples:\n\n\b\n"
    "  bridgeflow fit text --data blocks\n"
    "  bridgeflow fit image_latent --data folder:photos codec.name=pca codec.patch=8\n"
    "  bridgeflow train --task t2i codecs.target=codecs/image_latent"
)
@click.argument("modality", metavar="MODALITY")
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Data set: blocks, folder:PATH, hf:NAME[:CONFIG], or a plugin's.",
)
@click.option("--column", metavar="NAME", help="Column that holds the items; the modality's own by default.")
@click.option("-o", "--output", metavar="DIR", help="Folder of the codec; codecs/MODALITY by default.")
@click.option("--count", type=click.IntRange(min=1), default=4096, show_default=True, help="Most examples to fit to.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the fitting.")
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
def fit(
    modality: str,
    data: str,
    column: str | None,
    output: str | None,
    count: int,
    seed: int,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Fit the codec of a modality (text, image_latent, ...) to data.

    Options of the modality are set as key.path=value. The folder is given to a recipe as codecs.source=DIR or
    codecs.target=DIR. Without it, training fits the codec by itself.
    """
    from bridgeflow.runtime.console import Progress

    console = Progress()
    with console.doing(LOADING):
        from bridgeflow.training import codecs as fitting
    folder = Path(output or f"codecs/{modality.rpartition(':')[2]}")
    fitted = fitting.fit_codec(modality, data, overrides, column, count, seed, folder, console)
    console.clear()
    for sentence in fitted.unreadable[:5]:
        console.warn(f"skipped: {sentence}")
    facts: dict[str, Any] = {
        "codec": str(folder),
        "examples": fitted.examples,
        "unreadable": len(fitted.unreadable),
        "figures": fitted.figures,
    }
    if as_json:
        emit(json.dumps(facts, indent=1))
        return 0
    emit(f"{folder}   {fitted.examples:,} examples")
    for name, value in fitted.figures.items():
        emit(f"{name:<24} {value:.4f}")
    console.say(f"use it with: bridgeflow train --task TASK codecs.target={folder}")
    return 0
