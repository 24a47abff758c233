"""`bridgeflow export`."""

from __future__ import annotations

from pathlib import Path

import click

from bridgeflow.cli.output import emit


@click.command(
    "export",
    epilog="Example:\n\n\b\n  bridgeflow export runs/depth-blocks-01 -o models/depth\n"
    "  bridgeflow run --task depth photo.jpg --checkpoint models/depth",
)
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder of the model; absent or empty.")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "bf16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Data type (dtype) of the large weights.",
)
@click.option("--card", metavar="FILE", help="Model card to take along instead of the one that is written.")
def export(checkpoint: str, output: str, precision: str, card: str | None) -> None:
    """Make a run or a checkpoint fit to be given away: averaged weights in half precision, and a model card.

    The folder is a checkpoint that run, eval and --from take; training cannot be resumed from it.
    """
    from bridgeflow import exporting
    from bridgeflow.checkpoints.finding import find_checkpoint
    from bridgeflow.errors import BridgeflowError
    from bridgeflow.runtime.console import Progress

    text = None
    if card is not None:
        try:
            text = Path(card).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BridgeflowError(f"the card {card!r} cannot be read ({error}): give a text file.") from error
    console = Progress()
    written = exporting.export(find_checkpoint(checkpoint), Path(output), precision, text, console)  # type: ignore[arg-type]
    console.clear()
    size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    console.say(f"{size / 1e6:.1f} MB in {output}   next: bridgeflow run --task TASK FILE --checkpoint {output}")
    emit(written)
