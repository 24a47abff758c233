"""`bridgeflow inspect`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from bridgeflow.cli.options import json_option
from bridgeflow.cli.output import emit


@click.command(epilog="Example:\n\n\b\n  bridgeflow inspect runs/depth-blocks-01")
@click.argument("checkpoint", metavar="CHECKPOINT")
@json_option
def inspect(checkpoint: str, as_json: bool) -> None:
    """Tell what a run or a checkpoint holds: step, recipe, sizes, plugins, sampling."""
    from safetensors import safe_open

    from bridgeflow.checkpoints.checkpoint import open_checkpoint
    from bridgeflow.errors import BridgeflowError

    folder = Path(checkpoint)
    if not folder.is_dir():
        raise BridgeflowError(f"there is no folder {checkpoint!r}: give a run or a checkpoint of one.")
    opened = open_checkpoint(folder)
    meta = dict(opened.meta)
    parts: dict[str, int] = {}
    with safe_open(opened.folder / "model.safetensors", "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            size = 1
            for length in tensors.get_slice(name).get_shape():
                size *= length
            part = name.partition(".")[0]
            parts[part] = parts.get(part, 0) + size
    meta["parameters"] = parts
    files = meta.pop("files", {})
    meta["megabytes"] = round(sum(files.values()) / 1e6, 1)
    try:
        opened.check_plugins()
    except BridgeflowError as error:
        print(f"bridgeflow: {error}", file=sys.stderr)
    for note in opened.notes():
        print(f"bridgeflow: {note}", file=sys.stderr)
    if as_json:
        emit(json.dumps({"checkpoint": str(opened.folder), **meta}, indent=1, ensure_ascii=False))
        return
    emit(f"{'checkpoint':<16} {opened.folder}")
    for key, value in meta.items():
        if key == "plugins":
            value = ", ".join(f"{p['kind']} {p['name']} ({p['distribution']} {p['version']})" for p in opened.plugins)
        elif isinstance(value, dict):
            value = json.dumps(value)
        emit(f"{key:<16} {value}")
