"""`bridgeflow plugins new`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from bridgeflow.cli.output import emit


@click.command(
    epilog="Examples:\n\n\b\n  bridgeflow plugins new edges\n  bridgeflow plugins new colorize --kind task -o ~/plugins"
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["modality", "task"]),
    default="modality",
    show_default=True,
    help="What it holds: a modality with a task NAME_to_image, or a task alone.",
)
@click.option(
    "-o", "--output", metavar="DIR", default=".", help="Folder that bridgeflow-NAME is made in; this one by default."
)
def new(name: str, kind: str, output: str) -> None:
    """Make a plugin of your own to start from.

    It is an installable distribution that passes its checks and trains as it is; comments that start with CHANGE say
    what to make your own.
    """
    from bridgeflow.scaffold import scaffold

    made = scaffold(name, "task" if kind == "task" else "modality", Path(output).expanduser())
    emit(f"made {made.folder}")
    for file in made.files:
        emit(f"  {file.as_posix()}")
    emit("next:")
    for command in (
        f"cd {shlex.quote(str(made.folder))}",
        "pip install -e .",
        f"bridgeflow plugins check {name}",
        f"bridgeflow train --task {made.task}",
    ):
        emit(f"  {command}")
