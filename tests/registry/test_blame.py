"""Errors of plugins are told of the plugin: where, what, and which input."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bridgeflow.cli.main import invoke

SOURCE = """
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.task import ModalityUse, Task

class Row(Modality):
    reads, writes = (".npy",), ".npy"
    def __init__(self, options):
        super().__init__(options)
        self.weight = WEIGHT
    @property
    def latent(self): return LatentSpec((4, 2), "sequence")
    def read(self, value):
        item = np.load(value) if isinstance(value, (str, Path)) else value
        if item.ndim == 3:
            raise BridgeflowError("a row has one axis.")
        return READ(item)
    def collate(self, items): return {"x": torch.from_numpy(np.stack(items)).float()}
    def encode(self, batch): return Latent(ENCODED, mask=MASK)
    def decode(self, latent): return list(latent.flatten(1).numpy())
    def write(self, item, path):
        np.save(path, item)
        return [path]
    def preview(self, item): return Image.new("RGB", (8, 8))

class Another(Row):
    pass

def plain(item): return item
def strict(item): return item[:8] + {}["nothing"] if item.max() > 7 else item

class Rows(Task):
    source, target = ModalityUse("row"), ModalityUse("row")
    columns = {"row": "numbers"}
    def pair(self, row, rng): return self.from_modality.read(row[COLUMN]), self.to_modality.read(row["row"])
    @classmethod
    def example(cls, rng): return {"row": rng.normal(size=8) * FACTOR}
"""
RECIPE = """
task: rows
data: {name: examples, task: rows, size: 16, held_out: 4}
source_encoder: {name: direct}
network: {name: dit, width: 16, depth: 1, heads: 2}
training: {steps: 2, batch_size: 4, evaluate: 0, sample_every: 0, precision: fp32}
"""
FINE = {
    "READ": "plain",
    "ENCODED": 'batch["x"].view(-1, 4, 2)',
    "MASK": "None",
    "WEIGHT": "None",
    "COLUMN": '"row"',
    "FACTOR": "1.0",
}

Install = Callable[..., Path]
Write = Callable[..., None]


@pytest.fixture
def write(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Installs the plugin with words of its source exchanged, and leaves a recipe in the folder worked in."""
    monkeypatch.chdir(tmp_path)
    Path("rows.yaml").write_text(RECIPE, encoding="utf-8")

    def make(**words: str) -> None:
        source = SOURCE
        for word, text in {**FINE, **words}.items():
            source = source.replace(word, text)
        modalities = {"another": "acme_row:Another", "row": "acme_row:Row"}
        points = {"bridgeflow.modalities": modalities, "bridgeflow.tasks": {"rows": "acme_row:Rows"}}
        install("acme", points, {"acme_row.py": source}, "2.1")

    return make


GAVE = "`encode` of the modality 'row' of acme 2.1 gave"
CHECK = "and try it with bridgeflow plugins check row."


def train() -> int:
    return invoke(["train", "--task", "rows", "--recipe", "rows.yaml", "-o", "run"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            {"COLUMN": '"wor"'},
            [
                "`pair` of acme 2.1 failed (KeyError: 'wor'; ",
                "acme_row.py, line 39): fix it there, and",
                "check rows.",
            ],
        ),
        (
            {"ENCODED": 'batch["x"].view(-1, 3, 3)'},
            ["`encode` of acme 2.1 failed (RuntimeError: ", "try the rest with bridgeflow plugins check row."],
        ),
        ({"READ": "{}['read']"}, ["`read` of acme 2.1 failed (KeyError: 'read'; ", "plugins check row."]),
        (
            {"ENCODED": 'batch["x"].view(-1, 8)'},
            [f"{GAVE} (B, 8), but `latent` declares sequence 4x2: make `latent` say what `encode` makes, {CHECK}"],
        ),
        (
            {"ENCODED": 'batch["x"].view(-1, 4, 2).long()'},
            [f"{GAVE} int64, which no flow can follow: give floating point (float32), {CHECK}"],
        ),
        ({"ENCODED": 'batch["x"].view(-1, 4, 2)[:3]'}, [f"{GAVE} 3 latents for 4 items: give one for each, {CHECK}"]),
        (
            {"MASK": 'batch["x"][:, :4].abs()'},
            [f"{GAVE} a mask of float32: give bool, True where the latent is real, {CHECK}"],
        ),
        (
            {"MASK": 'batch["x"] > 0'},
            [f"{GAVE} a mask of shape (4, 8): give (B, 4) for a latent sequence 4x2, {CHECK}"],
        ),
        ({"MASK": 'None), batch["x"], (0'}, [f"{GAVE} a tuple: let it give a bridgeflow.modality.Latent, {CHECK}"]),
        (
            {"MASK": "None, std=-torch.ones(4, 4, 2)"},
            [f"{GAVE} a `std` below zero: give standard deviations, or None, {CHECK}"],
        ),
        (
            {"FACTOR": "np.nan"},
            ["cannot be read, the last because: row ", ": its 'x' holds numbers that are not finite", "data check"],
        ),
    ],
    ids=["pair", "encode", "read", "shape", "int64", "rows", "mask", "mask shape", "tuple", "std", "nan"],
)
def test_a_training_names_the_plugin_at_fault(
    write: Write, capsys: pytest.CaptureFixture[str], words: dict[str, str], told: list[str]
) -> None:
    write(**words)
    assert train() == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert [part for part in told if part not in sentence] == [], sentence
    assert "unforeseen" not in sentence


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({}, []),
        (
            {"ENCODED": '1000 * batch["x"].view(-1, 4, 2)'},
            [
                "warning: the latents of the source 'row' have mean ",
                "in the first batch (those of the target have mean ",
                "where about 0 and 1 are expected, and the loss follows their scale",
                "warning: the latents of the target 'row' have mean ",
            ],
        ),
        (
            {"ENCODED": '0 * batch["x"].view(-1, 4, 2) + 1'},
            ["warning: the source 'row' gives the same latent for all 4 items of the first batch, though the items"],
        ),
        (
            {"WEIGHT": "torch.nn.Parameter(torch.ones(3))"},
            ["2 weights of the modalities ask for gradients, such as 'weight' of the source 'row' and 'weight' of"],
        ),
    ],
    ids=["fine", "scale", "same", "weights"],
)
def test_a_training_says_what_no_flow_is_made_for(
    write: Write, capsys: pytest.CaptureFixture[str], words: dict[str, str], told: list[str]
) -> None:
    write(**words)
    assert train() == 0
    said = capsys.readouterr().err
    assert [part for part in told if part not in said] == [], said
    assert said.count("gradients") == said.count("ask for gradients") == int("WEIGHT" in words), said
    assert told or not re.search("warning|gradients", said)


def test_data_check_finds_numbers_that_are_not_finite(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(FACTOR="np.nan")
    assert invoke(["data", "check", "--task", "rows", "--recipe", "rows.yaml"]) == 1
    said = "".join(capsys.readouterr())
    assert "its 'x' holds numbers that are not finite" in said


def test_a_run_names_each_input_at_fault_and_carries_the_others(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write(READ="strict")
    assert train() == 0
    capsys.readouterr()
    row = np.linspace(0, 1, 8, dtype=np.float32)
    for name, item in {"fine": row, "bug": row + 9, "deep": row[None, None], "nan": row * np.nan}.items():
        np.save(f"{name}.npy", item)
    line = ["run", "--task", "rows", "--checkpoint", "run", "bug.npy", "deep.npy", "nan.npy", "fine.npy"]
    assert invoke([*line, "-o", "out"]) == 1
    out, err = capsys.readouterr()
    assert out == "out/fine-rows.npy\n", err
    assert "bridgeflow: bug.npy: `strict` of acme 2.1 failed (KeyError: 'nothing'; " in err
    assert "bridgeflow: deep.npy: a row has one axis.\n" in err
    assert "bridgeflow: nan.npy: it holds numbers that are not finite" in err
    assert "3 of 4 inputs gave no result." in err


def test_a_file_that_was_not_written_is_not_told_of(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert train() == 0
    np.save("fine.npy", np.zeros(8, np.float32))
    capsys.readouterr()
    assert invoke(["run", "--task", "rows", "--checkpoint", "run", "fine.npy", "-o", "out.wav"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "out.wav was not written, though Row says so: name an ending that it writes, such as .npy" in err


DATA = """
from bridgeflow.data.rows import DataSettings
class Broken(DataSettings):
    def open(self, split, progress=None): return {}["rows"]
"""


def test_an_error_of_a_data_set_is_told_of_its_distribution(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    install("acme", {"bridgeflow.datasets": {"broken": "acme_data:Broken"}}, {"acme_data.py": DATA}, "3.0")
    assert invoke(["data", "check", "--task", "depth", "--recipe", "depth/blocks", "--data", "broken"]) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("bridgeflow: `open` of acme 3.0 failed (KeyError: 'rows'; ")
    assert sentence.endswith("acme_data.py, line 4): fix it there.")
