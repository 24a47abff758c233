"""Every message that the page on troubleshooting quotes is one that bridgeflow says.

Above a quoted message stands, in a comment, the command that it comes from: `<!-- by: train --task dept -->`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from docs_reader import ROOT, SCENES
from PIL import Image

from bridgeflow.checkpoints.writing import NotSaved
from bridgeflow.cli.main import invoke
from bridgeflow.nn.health import collapse_warning
from bridgeflow.runtime import precision
from bridgeflow.runtime.lock import FolderLock
from bridgeflow_tasks.t2i import TextToImage

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.compile(
    r"^<!-- (with broken plugins, |while another writes, |without its model, )?by: (.*) -->\n> (.*)$", re.MULTILINE
)
MESSAGES = [pytest.param(*found, id=found[1]) for found in QUOTED.findall(PAGE)]
WARNINGS = dict(re.findall(r"^<!-- from: (.*) -->\n> (.*)$", PAGE, re.MULTILINE))

MODALITY = """
import torch
from bridgeflow.modality import Latent, LatentSpec, Modality

class Line(Modality):
    api_version = VERSION
    @property
    def latent(self): return LatentSpec((1, 4), "sequence")
    def read(self, value): return value
    def collate(self, items): return {"x": torch.zeros(len(items), 1, 4)}
    def encode(self, batch): return Latent(batch["x"])
    def preview(self, item): raise NotImplementedError
"""
FINE = MODALITY.replace("VERSION", "1")
BROKEN = {
    "acme-raises": ("raises", "Line", "raise ValueError('no licence')"),
    "acme-lacking": ("lacking", "Line", "import nonesuch"),
    "acme-future": ("future", "Line", MODALITY.replace("VERSION", "7")),
    "acme-moves": ("moves", "Line", f"import os\nos.chdir('/')\n{FINE}"),
    "acme-gone": ("gone", "Nothing", FINE),
    "acme-one": ("same", "Line", FINE),
    "acme-two": ("same", "Line", FINE),
}
"""Name, class and text of the modality of each distribution."""


def write_faults(folder: Path) -> None:
    """Folders and files, each with one thing wrong."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(256, size=(72, 80, 3), dtype=np.uint8))
    for name in ("plain", "unquoted", "torn", "little", "cropped/image", "cropped/depth", "empty"):
        (folder / name).mkdir(parents=True)
    lines = [json.dumps({"file_name": f"p{number}.png", "text": "a red cube"}) for number in range(6)]
    lines[1] = '{"file_name": "p1.png", "text": a red cube}'
    (folder / "unquoted/metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    depth = Image.fromarray(rng.integers(500, 5000, size=(36, 80), dtype=np.uint16))
    for number in range(6):
        for name in ("plain", "unquoted", "torn", "cropped/image"):
            picture.save(folder / f"{name}/p{number}.png")
        picture.resize((20, 20)).save(folder / f"little/p{number}.png")
        depth.save(folder / f"cropped/depth/p{number}.png")
    picture.save(folder / "photo.jpg")
    picture.save(folder / "tiny.png")
    (folder / "torn/broken.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:900])
    (folder / "note.txt").write_text("hello", encoding="utf-8")
    (folder / "unclosed.yaml").write_text("task: depth\ntraining: {steps: 20\n", encoding="utf-8")
    (folder / "mistaken.yaml").write_text(
        "extends: depth/blocks\ntraining: {stepz: 9, batch_size: 0}\n", encoding="utf-8"
    )


def write_runs(folder: Path, run: Path) -> None:
    """A whole run, one with a checkpoint cut short, and one of a plugin that is not here."""
    own = [shutil.copytree(run, folder / "runs" / name) for name in ("depth-blocks-01", "torn", "elsewhere")]
    (weights,) = own[1].glob("checkpoints/*/ema.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    (file,) = own[2].glob("checkpoints/*/meta.json")
    meta = json.loads(file.read_text(encoding="utf-8"))
    edges = {"kind": "modality", "name": "edges", "distribution": "bridgeflow-edges", "version": "0.1.0"}
    meta["plugins"].append(edges)
    file.write_text(json.dumps(meta), encoding="utf-8")
    (folder / "runs" / "young").mkdir()
    shutil.copy(run / "recipe.yaml", folder / "runs" / "young")


@pytest.fixture(scope="module")
def faults(reader: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_faults(folder)
    write_runs(folder, reader / "runs" / "depth-blocks-01")
    return folder


@pytest.fixture
def here(faults: Path, reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where all of that is, and where a command may write what it likes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(reader / "cache"))
    folder = tmp_path / "here"
    (folder / "runs").mkdir(parents=True)
    for entry in (*faults.iterdir(), *(faults / "runs").iterdir()):
        if entry.name != "runs":
            (folder / entry.relative_to(faults)).symlink_to(entry)
    monkeypatch.chdir(folder)
    return folder


def test_every_quoted_message_is_tried() -> None:
    assert len(re.findall(r"^> ", PAGE, re.MULTILINE)) == len(MESSAGES) + len(WARNINGS)
    assert len(MESSAGES) >= 50


@pytest.mark.parametrize(("broken", "line", "message"), MESSAGES)
def test_message(
    broken: str,
    line: str,
    message: str,
    here: Path,
    install: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "model" in broken:
        monkeypatch.setattr(TextToImage, "default_model", "")
    if "plugins" in broken:
        for distribution, (name, cls, text) in BROKEN.items():
            module = distribution.replace("-", "_")
            install(distribution, {"bridgeflow.modalities": {name: f"{module}:{cls}"}}, {f"{module}.py": text})
    words = shlex.split(line)
    if words[0] == "train" and not {"--data", "--resume"} & set(words) and "data.size=64" not in words:
        words += SCENES
    with contextlib.ExitStack() as held:
        if "writes" in broken:
            held.enter_context(FolderLock(Path("runs/held"), "run", pytest.fail))
        code = invoke(words)
    said = capsys.readouterr()
    assert " ".join(message.split()) in " ".join((said.err + said.out).split())
    assert code == (0 if "--dry-run" in words else 2 if code == 2 else 1)


def test_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run of the same name may lie where the tests are started.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "relative_time", lambda device_type: 31.4)
    assert {
        "bf16 where it is emulated": precision.slower_than_float32("cpu", ["training.precision=auto"]),
        "collapse in scale": collapse_warning({"z0_std": 0.09}, learned=True),
        "collapse of the mean": collapse_warning({"z0_std": 1.0, "mu_batch_std": 0.01}, learned=True),
        "a full disk": NotSaved(Path("runs/depth-blocks-01/checkpoints/000500"), os.strerror(errno.ENOSPC)).going_on,
    } == WARNINGS
