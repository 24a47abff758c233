"""`bridgeflow import`: the importers, their flags, and what is said when a file cannot be imported."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Call = Callable[..., Any]
Install = Callable[..., Path]

SHRUNKEN = Path(__file__).parents[1] / "plugins" / "crossflow" / "shrunken" / "dimr256.json"
HEADS = ("--heads", "4", "--encoder-heads", "4")
TEXT = ("--text-encoder", "some/encoder")

IMPORTER = """
import torch
from typing import Literal
from bridgeflow.config import recipe
from bridgeflow.checkpoints.importer import Importer, Recognised
from bridgeflow.settings import Settings
from bridgeflow.checkpoints.tensor_file import StoredTensor

class Options(Settings):
    deep_layers: int = 3
    "How many layers."
    tied: bool = True
    "Whether they are tied."
    style: Literal["old", "new"] = "new"
    "Which style."

class Acme(Importer):
    summary = "files of Acme"
    Options = Options

    def recognise(self, file):
        own = recipe.load("depth/blocks")
        value = torch.arange(self.options.deep_layers, dtype=torch.float32)
        stored = StoredTensor((len(value),), torch.float32, lambda: value)
        words = f"{self.options.tied} {self.options.style}"
        return Recognised(words, own, {"network.x": stored}, {"all": len(value)}, example="photo one.jpg")
"""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file of CrossFlow's form, shrunken to 4 MB."""
    keys = json.loads(SHRUNKEN.read_text())["keys"]
    file = tmp_path / "network.pth"
    torch.save({key: torch.randn(shape) for key, shape in keys if not key.startswith("open_clip")}, file)
    return file


def test_help_lists_the_importers_without_importing_them(install: Install) -> None:
    code = (
        "import sys; from bridgeflow.cli.main import invoke; code = invoke(['import', '--help'])\n"
        "print(sorted(set(sys.modules) & {'torch', 'pydantic', 'bridgeflow_plugins'}), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "crossflow  from bridgeflow-torch " in done.stdout


def test_an_unknown_importer_suggests_the_nearest(bridgeflow: Call) -> None:
    outcome = bridgeflow("import", "crosflow", "network.pth", "-o", "out")
    assert outcome.code == 2
    assert outcome.err.strip() == "bridgeflow: no importer 'crosflow'. Did you mean 'crossflow'? Installed: crossflow."


def test_flags_are_the_options_of_the_importer(bridgeflow: Call, install: Install, tmp_path: Path) -> None:
    install("acme", {"bridgeflow.importers": {"acme": "acme_import:Acme"}}, {"acme_import.py": IMPORTER})
    shown = bridgeflow("import", "acme", "--help").out
    for words in (
        "Import files of Acme.",
        "--deep-layers LAYERS",
        "How many layers.",
        "--tied / --no-tied",
        "[old|new]",
    ):
        assert words in shown
    (tmp_path / "f.bin").write_bytes(b"anything")
    outcome = bridgeflow("import", "acme", "f.bin", "-o", "o u t", "--deep-layers", "5", "--no-tied", "--style", "old")
    assert (outcome.code, outcome.out) == (0, "o u t\n")
    assert "recognised: False old\n" in outcome.err
    assert "kept: all 5; 5 parameters together\n" in outcome.err
    assert "next: bridgeflow run --task depth 'photo one.jpg' --checkpoint 'o u t'\n" in outcome.err
    told = json.loads(bridgeflow("inspect", "o u t", "--json").out)
    assert told["parameters"] == {"network": 5}
    assert told["imported"]["importer"] == "acme"
    wrong = bridgeflow("import", "acme", "f.bin", "-o", "other", "--deep-layers", "few")
    assert wrong.code == 2
    assert "--deep-layers: should be a whole number, not 'few'." in wrong.err
    assert not (tmp_path / "other").exists()


def test_numbers_that_are_not_finite_are_not_imported_whoever_reads_them(
    bridgeflow: Call, install: Install, tmp_path: Path
) -> None:
    files = {"acme_import.py": IMPORTER.replace("value = torch", "value = float('nan') * torch")}
    install("acme", {"bridgeflow.importers": {"acme": "acme_import:Acme"}}, files)
    (tmp_path / "f.bin").write_bytes(b"anything")
    outcome = bridgeflow("import", "acme", "f.bin", "-o", "out")
    assert outcome.code == 1
    assert (
        "bridgeflow: the tensor 'network.x' of model.safetensors holds numbers that are not finite, so nothing is "
        "written: take the weights of another checkpoint or file." in outcome.err
    )
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_an_option_that_the_command_has_itself_is_refused(bridgeflow: Call, install: Install) -> None:
    files = {"acme_import.py": IMPORTER.replace("deep_layers", "output")}
    install("acme", {"bridgeflow.importers": {"acme": "acme_import:Acme"}}, files)
    outcome = bridgeflow("import", "acme", "--help")
    assert outcome.code == 1
    assert "'acme' has the option 'output', which the command has itself" in outcome.err


def test_a_published_file_becomes_a_checkpoint(bridgeflow: Call, published: Path, tmp_path: Path) -> None:
    outcome = bridgeflow("import", "crossflow", "network.pth", *TEXT, *HEADS, "-o", "made/here")
    assert (outcome.code, outcome.out) == (0, "made/here\n")
    assert "recognised: a CrossFlow DiMR of sizes that were never published" in outcome.err
    assert "kept: velocity network 359,210, text variational encoder 653,736; 1,012,946 parameters" in outcome.err
    assert "dropped" not in outcome.err
    assert "fetched from the Hugging Face hub then: some/encoder and stabilityai/sd-vae-ft-ema" in outcome.err
    line = outcome.err.splitlines()[-1].partition("next: ")[2]
    words = ["bridgeflow", "run", "--task", "t2i", "a corgi in a red hat", "--checkpoint", "made/here"]
    assert shlex.split(line) == words
    told = bridgeflow("inspect", "made/here").out
    assert '"network": 359210, "source_encoder": 653736' in told
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["here"]


def test_json_tells_the_same_to_programs(bridgeflow: Call, published: Path) -> None:
    outcome = bridgeflow("import", "crossflow", "network.pth", *TEXT, *HEADS, "-o", "made", "--json")
    told = json.loads(outcome.out)
    assert (told["checkpoint"], told["task"], told["recipe"]) == ("made", "t2i", "crossflow/256px_dimr")
    assert told["kept"] == {"velocity network": 359_210, "text variational encoder": 653_736}
    assert told["dropped"] == {}
    assert told["published_as"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("absent.pth", "-o", "out"), 1, "there is no file 'absent.pth': give the path"),
        ((".", "-o", "out"), 1, "'.' is a folder: give the file in it"),
        (("network.pth", "-o", "full"), 1, "the folder 'full' is not empty: choose another --output."),
        (("network.pth", "-o", "network.pth"), 1, "network.pth' is a file: choose a folder as --output."),
        (("network.pth", "-o", "network.pth/in"), 1, "network.pth' is a file: choose a folder"),
        (("network.pth",), 2, "Missing option '-o' / '--output'."),
        (("network.pth", "-o", "out", "--text-encoder", "./clip"), 1, "--text-encoder './clip' does not exist"),
        (("network.pth", "-o", "out", "--text-encoder", "full"), 1, "--text-encoder 'full' holds no config.json"),
        (("network.pth", "-o", "out", "--text-encoder", ""), 1, "--text-encoder '' does not exist"),
        (("network.pth", "-o", "out", "--vae", "/no/vae"), 1, "--vae '/no/vae' does not exist"),
        (("network.pth", "-o", "out", "--vae", "network.pth"), 1, "--vae 'network.pth' is a file"),
        (("cut.pth", "-o", "out", "--vae", "./vae"), 1, "--vae './vae' does not exist"),
        (("cut.pth", "-o", "out"), 1, "'cut.pth' is cut short: download it again, or give another file."),
        (("other.pth", "-o", "out"), 1, "another network than CrossFlow's: its first keys are 'weight', 'bias'"),
        (("network.pth", "-o", "out", *TEXT, "--heads", "5"), 2, "--heads 5 does not divide"),
        (("network.pth", "-o", "out", *TEXT, "--heads", "0"), 2, "--heads: should be greater than or equal to 1"),
        (("network.pth", "-o", "out", *TEXT, "--precision", "fp8"), 2, "'fp8' is not one of 'fp32', 'bf16'"),
        (("network.pth", "-o", "out", *TEXT, "--keep-tower"), 1, "leave --keep-tower out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_imported_is_told_in_one_sentence_and_leaves_nothing(
    bridgeflow: Call, published: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "cut.pth").write_bytes(published.read_bytes()[:100_000])
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    before = sorted(tmp_path.rglob("*"))
    outcome = bridgeflow("import", "crossflow", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    last = outcome.err.splitlines()[-1]
    assert last.startswith("bridgeflow: ")
    assert words in last
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken_and_one_in_use_is_not(bridgeflow: Call, published: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    line = ("import", "crossflow", "network.pth", *TEXT, *HEADS, "-o", "made")
    assert bridgeflow(*line).code == 0
    weights = (tmp_path / "made" / "model.safetensors").read_bytes()
    assert bridgeflow(*line).code == 1
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == weights
