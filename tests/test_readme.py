"""The commands of the README parse, and what they set exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from bridgeflow import recipe as recipes
from bridgeflow.cli.main import cli

README = Path(__file__).parents[1] / "README.md"


def commands() -> list[str]:
    blocks = re.findall(r"```\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.rpartition("| ")[2] for line in lines if "bridgeflow " in line]


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 20


@pytest.mark.parametrize("line", commands())
def test_command_of_the_readme_parses(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "bridgeflow"
    command: click.Command = cli
    context = click.Context(cli)
    words = words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, words = found, words[1:]
    parsed = command.make_context(command.name, words)
    overrides = [value for value in parsed.params.get("overrides", ()) if not value.startswith("codecs.")]
    if parsed.params.get("task") and overrides:
        recipes.load(f"{parsed.params['task']}/blocks", overrides)


def test_the_recipe_of_the_readme_resolves(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "my.yaml"
    file.write_text(text, encoding="utf-8")
    resolved = recipes.load(str(file))
    assert resolved.recipe.source_encoder.name == "variational"
    assert resolved.recipe.kl.weight == 1e-2
