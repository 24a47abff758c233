"""Standard output belongs to results, whatever plugins print, and however they do."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest

import bridgeflow.cli
from bridgeflow.cli.main import COMMANDS, LazyGroup, cli, invoke
from bridgeflow.cli.output import emit, stream, with_stdout_for_results
from bridgeflow.runtime.stdout import redirected

Install = Callable[..., Path]

CHATTY = """
import ctypes, os, subprocess, sys
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.task import ModalityUse, Task

def say(where):
    print(f"NOISE print in {where}")
    os.write(1, f"NOISE write in {where}\\n".encode())
    subprocess.run([sys.executable, "-S", "-c", f"print('NOISE process in {where}')"])
    ctypes.CDLL(None).printf(f"NOISE printf in {where}\\n".encode())

say("import")

class Row(Modality):
    reads, writes = (".npy",), ".npy"
    @property
    def latent(self): return LatentSpec((4, 2), "sequence")
    def read(self, value):
        print("NOISE in read")
        return np.load(value) if isinstance(value, (str, Path)) else value
    def collate(self, items):
        print("NOISE in collate")
        return {"x": torch.from_numpy(np.stack(items)).float()}
    def encode(self, batch):
        os.write(1, b"NOISE in encode\\n")
        return Latent(batch["x"].view(-1, 4, 2))
    def decode(self, latent):
        print("NOISE in decode")
        return list(latent.flatten(1).numpy())
    def write(self, item, path):
        print("NOISE in write")
        np.save(path, item)
        return [path]
    def preview(self, item): return Image.new("RGB", (8, 8))

class Rows(Task):
    source, target = ModalityUse("row"), ModalityUse("row")
    columns = {"row": "numbers"}
    def pair(self, row, rng):
        print("NOISE in pair")
        return self.from_modality.read(row["row"]), self.to_modality.read(row["row"])
    def metrics(self, results, truths, sources, rows):
        say("metrics")
        return {"error": float(np.mean(np.abs(np.stack(results) - np.stack(truths))))}
    @classmethod
    def example(cls, rng): return {"row": rng.normal(size=8)}
"""
RECIPE = """
task: rows
data: {name: examples, task: rows, size: 16, held_out: 4}
source_encoder: {name: direct}
network: {name: dit, width: 16, depth: 1, heads: 2}
training: {steps: 1, batch_size: 4, evaluate: 4, sample_every: 0, precision: fp32, samples: 1}
"""


@pytest.fixture
def chatty(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs a plugin that prints wherever it can, and leaves a recipe in the folder worked in."""
    monkeypatch.chdir(tmp_path)
    Path("rows.yaml").write_text(RECIPE, encoding="utf-8")
    points = {"bridgeflow.modalities": {"row": "chatty_row:Row"}, "bridgeflow.tasks": {"rows": "chatty_row:Rows"}}
    return install("chatty", points, {"chatty_row.py": CHATTY}, "2.1")


def test_what_plugins_print_goes_to_stderr_and_results_to_stdout(
    chatty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--task", "rows", "--recipe", "rows.yaml", "-o", "run"]
    assert invoke([*train, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["steps"] == 1
    for way in ("print", "write", "process", "printf"):
        for where in ("import", "metrics"):
            assert f"NOISE {way} in {where}" in err
    for where in ("pair", "read", "collate", "encode", "decode"):
        assert f"NOISE in {where}" in err

    np.save("fine.npy", np.zeros(8, np.float32))
    assert invoke(["run", "--task", "rows", "--checkpoint", "run", "fine.npy", "-o", "out"]) == 0
    out, err = capfd.readouterr()
    assert out == "out/fine-rows.npy\n"
    assert "NOISE in write" in err


def test_a_pipe_gets_the_results_alone(chatty: Path) -> None:
    command = [sys.executable, "-m", "bridgeflow", "plugins", "info", "row", "--json"]
    path = os.pathsep.join([str(chatty), *filter(None, sys.path)])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert [fact["name"] for fact in json.loads(done.stdout)] == ["row"], done.stderr
    for way in ("print", "write", "process", "printf"):
        assert f"NOISE {way} in import" in done.stderr


IMPORTER = """
import os
from bridgeflow.checkpoints.importer import Importer
os.write(1, b"NOISE below\\n")
print("NOISE")

class Old(Importer):
    summary = "an old checkpoint"
    def recognise(self, file, folder):
        print("NOISE in recognise")
"""


def test_an_importer_that_prints_spoils_neither_its_help_nor_its_results(
    install: Install, capfd: pytest.CaptureFixture[str]
) -> None:
    install("old", {"bridgeflow.importers": {"old": "old_importer:Old"}}, {"old_importer.py": IMPORTER})
    assert invoke(["import", "old", "--help"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("Usage: bridgeflow import old")
    assert "NOISE" not in out
    assert sorted(err.split("\n")) == ["", "NOISE", "NOISE below"]


def test_standard_output_is_as_before_when_a_command_is_done_or_fails(capfd: pytest.CaptureFixture[str]) -> None:
    own = sys.stdout

    @click.command
    @click.option("--fail", is_flag=True)
    def command(fail: bool) -> None:
        print("aside")
        emit("result")
        if fail:
            raise ValueError("failed")

    with_stdout_for_results(command)
    with_stdout_for_results(command)
    command.main([], standalone_mode=False)
    with pytest.raises(ValueError, match="failed"):
        command.main(["--fail"], standalone_mode=False)
    assert sys.stdout is own is stream()
    print("after")
    os.write(1, b"after, below\n")
    out, err = capfd.readouterr()
    assert out == "result\nresult\nafter\nafter, below\n"
    assert err == "aside\naside\n"


def test_what_is_printed_goes_to_a_file_below_python_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "said.txt").open("w") as file, redirected(file) as results:
        print("printed")
        file.flush()
        os.write(1, b"written\n")
        ctypes.CDLL(None).printf(b"by C\n")
        print("result", file=results)
    assert (tmp_path / "said.txt").read_text() == "printed\nwritten\nby C\n"
    assert capfd.readouterr().out == "result\n"


def leaves(command: click.Command) -> Iterator[click.Command]:
    """The commands of a group, and those of the groups in it."""
    if not isinstance(command, click.Group):
        yield command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        own = command.get_command(context, name)
        assert own is not None
        yield from leaves(own)


def test_every_command_keeps_stdout_for_its_results() -> None:
    assert isinstance(cli, LazyGroup)
    found = list(leaves(cli))
    assert len(found) > len(COMMANDS)
    assert [command.name for command in found if not hasattr(command.callback, "prints_results")] == []


def test_no_command_prints_a_result_to_where_plugins_print() -> None:
    found = []
    for file in sorted(Path(next(iter(bridgeflow.cli.__path__))).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo"):
                to = [ast.unparse(own.value) for own in node.keywords if own.arg == "file"]
                if to not in (["sys.stderr"], ["stream()"]):
                    found.append(f"{file.name}, line {node.lineno}: use bridgeflow.cli.output.emit")
    assert found == []
