"""`bridgeflow import`: one command for each installed importer, built when it runs."""

from __future__ import annotations

import json
import shlex
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bridgeflow.cli.options import json_option
from bridgeflow.cli.output import emit, with_stdout_for_results
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.runtime.stdout import redirected

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from bridgeflow.checkpoints.importer import Importer, Recognised
    from bridgeflow.runtime.console import Progress


RESERVED = {"file", "output", "json", "as_json", "help", "debug"}
"""Names that the command of every importer has for itself."""


class ImporterGroup(click.Group):
    """A group with a command for each installed importer; its help imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the installed importers."""
        from bridgeflow import registry

        return list(dict.fromkeys(plugin.name for plugin in registry.installed("importer")))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of an importer, which is imported now."""
        from bridgeflow import registry

        # Before the command has begun, since its options are the importer's.
        with redirected(sys.stderr):
            kind = registry.load("importer", cmd_name)
        return with_stdout_for_results(importer_command(cmd_name, kind))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Leaves an unknown name to the registry, which suggests the nearest."""
        name = args[0] if args else ""
        if name.startswith("-") or not name:
            return super().resolve_command(ctx, args)
        return name, self.get_command(ctx, name), args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes who offers each importer, without importing it."""
        from bridgeflow import registry

        rows = [(p.name, f"from {p.distribution} {p.version}") for p in registry.installed("importer")]
        with formatter.section("Importers"):
            formatter.write_dl(rows or [("none", "no importer is installed")])


@click.group(
    "import",
    cls=ImporterGroup,
    subcommand_metavar="IMPORTER FILE ...",
    epilog="Examples:\n\n\b\n"
    "  bridgeflow import crossflow t2i_256px_clip_dimr.pth -o crossflow-256\n"
    "  bridgeflow import crossflow t2i_512px_t5_dit.pth --precision bf16 -o crossflow-512\n"
    "  bridgeflow import crossflow network.pth --text-encoder clip/ --vae vae/ -o imported",
)
def importing() -> None:
    """Turn a checkpoint that another program wrote into one of bridgeflow's."""


def importer_command(name: str, kind: type[Importer]) -> click.Command:
    """The command of an importer: FILE, -o, --json and a flag for each of its options."""

    def run(file: str, output: str, as_json: bool, **given: Any) -> int:
        return _import(name, kind, Path(file), Path(output), as_json, given)

    taken = RESERVED & kind.Options.model_fields.keys()
    if taken:
        raise BridgeflowError(
            f"the importer {name!r} has the option {min(taken)!r}, which the command has itself: rename it."
        )
    command: Callable[..., Any] = run
    command = json_option(command)
    for key, field in reversed(kind.Options.model_fields.items()):
        text = " ".join((field.description or f"The importer's option {key}.").split())
        command = _flag(key, field, text)(command)
    command = click.option("-o", "--output", required=True, metavar="DIR", help="Folder of the checkpoint; a new one.")(
        command
    )
    command = click.argument("file", metavar="FILE")(command)
    about = f"Import {kind.summary or name}."
    return click.command(name, help=about)(command)


def _flag(key: str, field: FieldInfo, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    words, annotation = key.replace("_", "-"), field.annotation
    flag = f"--{words}"
    if annotation is bool:
        both = f"{flag}/--no-{words}" if field.default else flag
        return click.option(both, key, is_flag=True, default=None, help=text)
    if typing.get_origin(annotation) is Literal:
        return click.option(flag, key, type=click.Choice([str(own) for own in typing.get_args(annotation)]), help=text)
    return click.option(flag, key, metavar=key.rpartition("_")[2].upper(), help=text)


def _options(name: str, kind: type[Importer], given: dict[str, Any]) -> Importer:
    """The importer with the flags that were set. Raises UsageError with every mistake at once."""
    from bridgeflow.config.validation import validated

    mistakes: list[str] = []
    values = {key: value for key, value in given.items() if value is not None}
    options = validated(kind.Options, values, "", mistakes)
    if mistakes:
        told = [f"--{key.replace('_', '-')}:{rest}" for key, _, rest in (m.partition(":") for m in mistakes)]
        raise UsageError(f"importer {name!r}: {' '.join(told)}")
    return kind(options)


def _import(name: str, kind: type[Importer], file: Path, folder: Path, as_json: bool, given: dict[str, Any]) -> int:
    from bridgeflow.checkpoints import importer
    from bridgeflow.runtime.console import Progress

    console = Progress()
    chosen = _options(name, kind, given)
    found = importer.recognise(chosen, file, folder)
    _tell(console, found)
    with console:
        importer.write(
            found,
            name,
            file,
            folder,
            lambda done, total: console(done // 10**6, total // 10**6, "writing", "MB"),
        )
    if as_json:
        facts = {
            "checkpoint": str(folder),
            "recognised": found.title,
            "task": found.recipe.task_name,
            "recipe": found.recipe.name,
            "kept": found.kept,
            "dropped": found.dropped,
            "notes": list(found.notes),
            **found.facts,
        }
        emit(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        emit(folder)
    for note in found.notes:
        console.say(f"note: {note}")
    task = found.recipe.task_name
    console.say(
        f"next: bridgeflow run --task {task} {shlex.quote(found.example)} --checkpoint {shlex.quote(str(folder))}"
    )
    return 0


def _tell(console: Progress, found: Recognised) -> None:
    console.say(f"recognised: {found.title}")
    for word, parts in (("kept", found.kept), ("dropped", found.dropped)):
        if parts:
            listed = ", ".join(f"{part} {count:,}" for part, count in parts.items())
            console.say(f"{word}: {listed}; {sum(parts.values()):,} parameters together")
