"""The plugins that a checkpoint needs: noted, missed in one sentence, and told of where they are of another version."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import bridgeflow
from bridgeflow import registry
from bridgeflow.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bridgeflow.cli.main import invoke
from bridgeflow.errors import BridgeflowError

Install = Callable[..., Path]

MODULE = """
import numpy as np
import torch
from PIL import Image
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.task import ModalityUse, Task

class Wave(Modality):
    column = "wave"
    @property
    def latent(self): return LatentSpec((1, 4, 4), "grid")
    def read(self, value): return np.asarray(value, np.float32)
    def collate(self, items): return {"x": torch.from_numpy(np.stack(items))}
    def encode(self, batch): return Latent(batch["x"])
    def decode(self, latent): return list(latent.float().cpu().numpy())
    def preview(self, item): return Image.new("RGB", (4, 4))

class Turn(Task):
    source = ModalityUse("wave")
    target = ModalityUse("wave")
    columns = {"wave": "numbers"}
    def pair(self, row, rng): return row["wave"], -row["wave"]
    @classmethod
    def example(cls, rng): return {"wave": rng.normal(size=(1, 4, 4)).astype(np.float32)}
"""
POINTS = {"bridgeflow.modalities": {"wave": "acme_wave:Wave"}, "bridgeflow.tasks": {"turn": "acme_wave:Turn"}}
RECIPE = {
    "task": "turn",
    "data": {"name": "examples", "task": "turn", "size": 8, "held_out": 2},
    "network": {"name": "unet", "channels": [8], "blocks": 1, "attention": []},
    "training": {"steps": 1, "batch_size": 2, "precision": "fp32", "evaluate": 0, "samples": 1},
}


@pytest.fixture
def run(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bridgeflow.Run:
    """A run of a task whose plugins are of acme-wave 1.0."""
    monkeypatch.chdir(tmp_path)
    install("acme-wave", POINTS, {"acme_wave.py": MODULE})
    return bridgeflow.train(RECIPE, device="cpu")


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes acme-wave from the path, as on another machine."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "site-acme-wave" not in place])
    registry.forget()


PARTS = (
    ("source_encoder", "direct"),
    ("coupling", "paired"),
    ("path", "straight"),
    ("objective", "flow_matching"),
    ("encoding_loss", "none"),
    ("optimizer", "adamw"),
    ("solver", "euler"),
    ("guidance", "none"),
)
"""The parts of the method that a recipe names by its defaults."""


def test_each_plugin_is_noted_with_its_distribution_and_version(run: bridgeflow.Run) -> None:
    noted = {(p["kind"], p["name"]): (p["distribution"], p["version"]) for p in open_checkpoint(run.folder).plugins}
    assert noted == {
        ("task", "turn"): ("acme-wave", "1.0"),
        ("modality", "wave"): ("acme-wave", "1.0"),
        ("dataset", "examples"): ("bridgeflow-torch", bridgeflow.__version__),
        ("network", "unet"): ("bridgeflow-torch", bridgeflow.__version__),
        **dict.fromkeys(PARTS, ("bridgeflow-torch", bridgeflow.__version__)),
    }


SENTENCE = (
    "needs the task 'turn' and the modality 'wave' of acme-wave 1.0, which is not installed: "
    'pip install "acme-wave==1.0".'
)


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    run: bridgeflow.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch)
    with pytest.raises(BridgeflowError) as caught:
        bridgeflow.load(run.folder)
    assert str(caught.value) == f"checkpoint {str(run.checkpoint)!r} {SENTENCE}"
    with pytest.raises(BridgeflowError, match="which is not installed: pip install"):
        bridgeflow.load("turn")
    for line in (["run", "--task", "turn", "1"], ["run", "--task", "turn", "1", "--checkpoint", str(run.folder)]):
        assert invoke(line) == 1
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith("bridgeflow: checkpoint ")
        assert told.endswith(SENTENCE)
    assert invoke(["inspect", str(run.folder)]) == 0
    shown = capsys.readouterr()
    assert "task turn (acme-wave 1.0)" in shown.out
    assert shown.err.endswith(SENTENCE + "\n")


def test_other_version_is_a_note_and_no_error(
    run: bridgeflow.Run, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.load(device="cpu")
    install("acme-wave", POINTS, {"acme_wave.py": MODULE}, version="1.2")
    note = (
        "the checkpoint was written with acme-wave 1.0, and 1.2 is installed: should results differ, "
        'pip install "acme-wave==1.0".'
    )
    assert open_checkpoint(run.folder).notes() == [note]
    with pytest.warns(UserWarning, match="acme-wave") as caught:
        bridgeflow.load("turn", device="cpu")
    assert [(str(w.message), w.filename) for w in caught] == [(note, __file__)]
    assert invoke(["inspect", str(run.folder)]) == 0
    assert note in capsys.readouterr().err


def test_distribution_that_is_there_but_does_not_offer_it_is_told_apart(
    run: bridgeflow.Run, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGEFLOW_PLUGINS", "none")
    registry.forget()
    with pytest.raises(
        BridgeflowError, match=r"of acme-wave 1\.0, which BRIDGEFLOW_PLUGINS leaves out: add acme-wave to"
    ):
        bridgeflow.load(run.folder)
    monkeypatch.delenv("BRIDGEFLOW_PLUGINS")
    install("acme-wave", {"bridgeflow.tasks": POINTS["bridgeflow.tasks"]}, {"acme_wave.py": MODULE}, version="2.0")
    with pytest.raises(BridgeflowError) as caught:
        bridgeflow.load(run.folder)
    assert str(caught.value).endswith(
        "needs the modality 'wave' of acme-wave 1.0, which version 2.0, installed here, does not offer: "
        'pip install "acme-wave==1.0".'
    )


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        ({"url": "https://x.org/wave.git", "vcs_info": {"vcs": "git", "commit_id": "ab1"}}, "git+https://x.org/wave.git@ab1"),
        (
            {"url": "https://x.org/w.git", "vcs_info": {"vcs": "git", "commit_id": "ab1"}, "subdirectory": "a/b"},
            "git+https://x.org/w.git@ab1#subdirectory=a/b",
        ),
        ({"url": "https://x.org/wave-1.0-py3-none-any.whl", "archive_info": {}}, "https://x.org/wave-1.0-py3-none-any.whl"),
        ({"url": "file:///home/me/wave", "dir_info": {}}, "local"),
    ],
)  # fmt: skip
def test_where_a_plugin_came_from_is_noted_without_private_paths(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object], requirement: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = install("acme-wave", POINTS, {"acme_wave.py": MODULE})
    (folder / "acme-wave-1.0.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    run = bridgeflow.train(RECIPE, device="cpu")
    assert {p.get("origin") for p in open_checkpoint(run.folder).plugins} == {requirement, None}
    assert "home/me" not in (run.checkpoint / "meta.json").read_text()
    without(monkeypatch)
    with pytest.raises(BridgeflowError) as caught:
        bridgeflow.load(run.folder)
    if requirement == "local":
        assert 'pip install "acme-wave==1.0", or the wheel or folder that it was' in str(caught.value)
    else:
        assert str(caught.value).endswith(f'pip install "acme-wave @ {requirement}".')


def test_checkpoint_without_such_notes_still_loads(run: bridgeflow.Run) -> None:
    meta = json.loads((run.checkpoint / "meta.json").read_text())
    del meta["plugins"]
    (run.checkpoint / "meta.json").write_text(json.dumps(meta))
    assert open_checkpoint(run.folder).notes() == []
    assert bridgeflow.load(run.folder, device="cpu")(np.ones((1, 4, 4)), steps=1).shape == (1, 4, 4)


ROWS = """
from bridgeflow.data.rows import DataSettings
from bridgeflow import registry
class Waves(DataSettings):
    size: int = 8
    def open(self, split, progress=None):
        return registry.load("dataset", "examples")(task="turn", size=self.size, held_out=2).open(split, progress)
"""


def test_data_that_are_not_to_be_had_are_asked_for_only_where_they_are_read(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    install("acme-wave", POINTS, {"acme_wave.py": MODULE})
    install("acme-rows", {"bridgeflow.datasets": {"waves": "acme_rows:Waves"}}, {"acme_rows.py": ROWS})
    run = bridgeflow.train({**RECIPE, "data": {"name": "waves", "size": 9}}, device="cpu")
    assert open_checkpoint(run.folder).recipe(with_data=False).tree()["data"] == {"name": "waves", "size": 9}
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "site-acme-rows" not in place])
    registry.forget()
    assert bridgeflow.load("turn", device="cpu")(np.ones((1, 4, 4)), steps=1).shape == (1, 4, 4)
    told = "needs the dataset 'waves' of acme-rows 1.0, which is not installed: pip install"
    with pytest.raises(BridgeflowError, match=told):
        bridgeflow.train("turn", resume=True, device="cpu")
    line = ["eval", "--task", "turn", "--count", "2", "--device", "cpu"]
    assert invoke(line) == 1
    assert told in capsys.readouterr().err
    assert invoke([*line, "--data", "examples:turn"]) == 0


def test_a_checkpoint_of_another_bridgeflow_asks_for_none_of_a_package_index(run: bridgeflow.Run) -> None:
    file = run.checkpoint / "meta.json"
    meta = json.loads(file.read_text())
    for note in meta["plugins"]:
        note["version"] = "0.0.1" if note["distribution"] == "bridgeflow-torch" else note["version"]
    file.write_text(json.dumps(meta))
    (note,) = open_checkpoint(run.folder).notes()
    assert note.startswith("the checkpoint was written with bridgeflow-torch 0.0.1, and ")
    assert "pip install" not in note
    meta["plugins"].append({"kind": "network", "name": "gone", "distribution": "bridgeflow-torch", "version": "0.0.1"})
    file.write_text(json.dumps(meta))
    with pytest.raises(BridgeflowError, match=r"does not offer: use bridgeflow-torch 0\.0\.1\.$"):
        bridgeflow.load(run.folder)


def test_a_model_runs_without_the_plugins_that_trained_it(run: bridgeflow.Run, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run.checkpoint, folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    for kind in ("optimizer", "objective", "coupling"):
        meta["plugins"].append({"kind": kind, "name": "gone", "distribution": "acme-gone", "version": "1.0"})
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    tree = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    tree |= {"optimizer": {"name": "gone", "learning_rate": 1.0}, "objective": {"name": "gone"}}
    checkpoint = Checkpoint(folder, meta)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    checkpoint.check_plugins(with_data=False)
    assert checkpoint.recipe(with_data=False).keys.optimizer.name == "adamw"
    with pytest.raises(BridgeflowError, match="needs the optimizer 'gone'"):
        checkpoint.recipe()
