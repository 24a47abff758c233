"""What the site writes by itself: the reference of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from bridgeflow.cli.main import cli

PLACE = "<!-- commands -->"
WIDTH = 100
"""Columns of a help text, as wide as a block of code on a page."""


def tree(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """A command and all below it, each with its context."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from tree(below, click.Context(below, parent=context, info_name=name))


def reference() -> str:
    """A heading and the help of every command, in Markdown."""
    root = click.Context(
        cli,
        info_name="bridgeflow",
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=cli.context_settings["help_option_names"],
    )
    return "\n".join(
        f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
        for command, context in tree(cli, root)
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return markdown.replace(PLACE, reference()) if PLACE in markdown else markdown
