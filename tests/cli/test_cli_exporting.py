"""`bridgeflow export`, and models that are installed with a recipe."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import bridgeflow as package
from bridgeflow.bridge import Bridge
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow_plugins.blocks.render import render_scene

Call = Callable[..., Any]
Install = Callable[..., Path]

TINY = [
    "network.channels=[8,8]", "network.blocks=1", "network.attention=[]", "training.precision=fp32", "data.size=96",
    "data.held_out=32", "training.steps=3", "training.batch_size=2", "training.evaluate=4", "training.samples=1",
    "source.size=16", "target.size=16",
]  # fmt: skip


@pytest.fixture
def model(made: Callable[..., Path]) -> Path:
    made("runs/own", "train", "--task", "depth", *TINY)
    return made("models/depth", "export", "runs/own")


def test_an_exported_model_gives_the_results_of_its_run(bridgeflow: Call, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16, torch.float32}
    assert not (model / "trainer").exists()
    assert not (model / "ema.safetensors").exists()
    card = (model / "README.md").read_text()
    assert "3 steps of 2 pairs, seed 0" in card
    assert "no photographs" in card
    figures = json.loads((Path("runs/own") / "evaluation.json").read_text())["figures"]
    assert f"| abs_rel | {figures['abs_rel']:.4f} |" in card
    picture = render_scene(1, "held_out", 0, 64)["image"]
    own, exported = Pipeline.open(Path("runs/own"))(picture), Pipeline.open(model)(picture)
    assert exported.dtype == own.dtype
    np.testing.assert_allclose(exported, own, rtol=5e-3)
    assert not np.array_equal(exported, own)
    scored = bridgeflow("eval", "--task", "depth", "--checkpoint", str(model), "--count", "2", "--json")
    assert scored.code == 0, scored.err
    again = bridgeflow("train", "--task", "depth", *TINY, "--from", str(model), "-o", "runs/further")
    assert again.code == 0, again.err


@pytest.mark.parametrize("key", ["network.head.weight", "network.head.bias"])
def test_weights_that_are_not_finite_are_not_given_away(
    bridgeflow: Call, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    def spoilt(module: nn.Module) -> dict[str, torch.Tensor]:
        state = nn.Module.state_dict(module)
        return {name: own * math.inf if name == key else own for name, own in state.items()}

    assert bridgeflow("train", "--task", "depth", *TINY, "training.steps=1", "-o", "runs/own").code == 0
    monkeypatch.setattr(Bridge, "state_dict", spoilt)
    outcome = bridgeflow("export", "runs/own", "-o", "models/depth")
    assert outcome.code == 1
    assert f"the tensor {key!r} of model.safetensors holds numbers that are not finite, so nothing is" in outcome.err
    assert not Path("models").exists() or list(Path("models").iterdir()) == []


def test_weights_that_half_precision_cannot_hold_name_the_precision(
    bridgeflow: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def huge(module: nn.Module) -> dict[str, torch.Tensor]:
        return {name: own.float() + 1e6 for name, own in nn.Module.state_dict(module).items()}

    assert bridgeflow("train", "--task", "depth", *TINY, "training.steps=1", "-o", "runs/own").code == 0
    monkeypatch.setattr(Bridge, "state_dict", huge)
    outcome = bridgeflow("export", "runs/own", "-o", "models/depth")
    assert outcome.code == 1
    assert "too large for torch.float16: choose --precision bf16 or fp32." in outcome.err


def test_a_model_trained_on_a_cache_names_the_data_that_were_cached(bridgeflow: Call) -> None:
    made = bridgeflow("cache", "--task", "depth", *TINY, "-o", "latents")
    assert made.code == 0, made.err
    assert bridgeflow("train", "--task", "depth", "--data", "cache:latents", "-o", "runs/cached").code == 0
    for folder in ("with", "without"):
        exported = bridgeflow("export", "runs/cached", "-o", f"models/{folder}")
        assert exported.code == 0, exported.err
        shutil.rmtree("latents", ignore_errors=True)
    found, lost = (
        (yaml.safe_load(Path(f"models/{folder}/recipe.yaml").read_text())["data"], Path(f"models/{folder}/README.md"))
        for folder in ("with", "without")
    )
    assert found[0]["name"] == "blocks"
    assert found[0]["size"] == 96
    assert "- data: `blocks`" in found[1].read_text()
    assert "no photographs" in found[1].read_text()
    meta = json.loads(Path("models/with/meta.json").read_text())
    assert meta["data"]["description"] == "96 scenes"
    assert "cache" not in meta["data"]["fingerprint"]
    # Where the cache is gone, so is what it was made from.
    assert lost[0] == {**lost[0], "name": "cache", "path": "latents"}


def test_a_card_has_the_figures_of_its_own_checkpoint(bridgeflow: Call) -> None:
    line = [own for own in TINY if not own.startswith("training.steps")]
    assert (
        bridgeflow("train", "--task", "depth", *line, "training.steps=4", "training.checkpoint_every=2", "-o", "r").code
        == 0
    )
    assert bridgeflow("export", "r/checkpoints/000002", "-o", "early").code == 0
    assert bridgeflow("export", "r", "-o", "last").code == 0
    assert "## Figures" not in Path("early/README.md").read_text()
    assert "## Figures" in Path("last/README.md").read_text()


def test_a_card_is_there_to_be_written_on(bridgeflow: Call, photos: Path) -> None:
    assert bridgeflow("train", "--task", "depth", *TINY, "-o", "r").code == 0
    assert bridgeflow("export", "r", "-o", "model").code == 0
    for name in ("README.md", "evaluation.json"):
        page = Path("model") / name
        page.write_text(page.read_text() + "\n")
    picture = str(photos / "0.png")
    assert bridgeflow("run", "--task", "depth", "--checkpoint", "model", picture, "-o", "a").code == 0
    Path("model/README.md").unlink()
    assert bridgeflow("run", "--task", "depth", "--checkpoint", "model", picture, "-o", "b").code == 0
    # What results are made with is still watched over.
    recipe = Path("model/recipe.yaml")
    recipe.write_text(recipe.read_text() + "\n")
    spoilt = bridgeflow("run", "--task", "depth", "--checkpoint", "model", picture, "-o", "c")
    assert spoilt.code == 1
    assert "is damaged (recipe.yaml is cut short or missing)" in " ".join(spoilt.err.split())


def test_a_model_whose_data_are_gone_can_be_given_away(bridgeflow: Call, photos: Path) -> None:
    shutil.copytree(photos, "own")
    small = [
        "network.channels=[8,8]",
        "network.blocks=1",
        "training.steps=1",
        "training.batch_size=2",
        "options.overlap=1",
    ]
    line = ["--task", "superres", "--data", "folder:own", "source.size=16", "target.size=16", *small]
    assert bridgeflow("train", *line, "training.evaluate=0", "training.precision=fp32", "-o", "r").code == 0
    shutil.rmtree("own")
    outcome = bridgeflow("export", "r", "-o", "m")
    assert outcome.code == 0, outcome.err
    assert "will not know which inputs are out of distribution, because its data cannot be read" in " ".join(
        outcome.err.split()
    )


def test_what_it_does_not_know_is_told_once(bridgeflow: Call, model: Path) -> None:
    for name in ("scene", "other"):
        Image.fromarray(render_scene(1, "held_out", 0, 64)["image"]).save(f"{name}.png")
    draw = np.random.default_rng(0)
    for name in ("noise", "more"):
        Image.fromarray(draw.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(f"{name}.png")
    run = ["run", "--task", "depth", "--checkpoint", str(model), "-o", "out"]
    known = bridgeflow(*run, "scene.png", "other.png")
    assert "far from" not in known.err
    told = bridgeflow(*run, "scene.png", "noise.png", "more.png")
    assert told.code == 0
    assert told.err.count("far from what this model was trained on") == 1
    assert "noise.png is far" in told.err
    assert "It knows the blocks world" in told.err


def test_an_installed_model_is_found(bridgeflow: Call, model: Path, install: Install) -> None:
    folder = install("acme-recipes", {"bridgeflow.recipes": {"acme": "acme_recipes"}}, {"acme_recipes/__init__.py": ""})
    (folder / "acme_recipes/depth").mkdir()
    shutil.copy(model / "recipe.yaml", folder / "acme_recipes/depth/own.yaml")
    shutil.copytree(model, folder / "acme_recipes/depth/own")
    Image.fromarray(render_scene(1, "held_out", 0, 64)["image"]).save("scene.png")
    listed = bridgeflow("recipes", "list")
    assert "depth/own\n" in listed.out or "depth/own " in listed.out
    assert "depth/own/recipe" not in listed.out
    rows = json.loads(bridgeflow("recipes", "list", "--json").out)
    assert {row["recipe"]: row["model"] for row in rows}["depth/own"] == "installed"
    assert {row["recipe"]: row["model"] for row in rows}["depth/kitti"] == ""
    tuned = bridgeflow("tune-sampler", "--task", "depth", "--checkpoint", "depth/own", "--count", "16")
    assert tuned.code == 2
    assert "is installed with its recipe and is not changed: copy it" in " ".join(tuned.err.split())
    ran = bridgeflow("run", "--task", "depth", "--checkpoint", "depth/own", "scene.png", "-o", "own.png")
    assert ran.code == 0, ran.err
    assert package.load("depth/own").sampling == Pipeline.open(model).sampling
    missing = bridgeflow("run", "--task", "depth", "--checkpoint", "depth/nothing", "scene.png")
    assert missing.code == 1
    assert "or the name of a recipe with an installed model." in missing.err


def test_a_task_without_a_run_takes_its_installed_model(
    bridgeflow: Call, model: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model.resolve()
    folder = install("acme-recipes", {"bridgeflow.recipes": {"acme": "acme_recipes"}}, {"acme_recipes/__init__.py": ""})
    (folder / "acme_recipes/depth").mkdir()
    shutil.copy(own / "recipe.yaml", folder / "acme_recipes/depth/own.yaml")
    shutil.copytree(own, folder / "acme_recipes/depth/own")
    monkeypatch.setattr(package.tasks["depth"], "default_model", "depth/own")
    Image.fromarray(render_scene(1, "held_out", 0, 64)["image"]).save("scene.png")
    assert "using runs/own" in bridgeflow("run", "--task", "depth", "scene.png", "-o", "a.png").err
    shutil.rmtree("runs")
    ran = bridgeflow("run", "--task", "depth", "scene.png", "-o", "b.png")
    assert ran.code == 0, ran.err
    assert "acme_recipes/depth/own" in ran.err
    assert package.load("depth").knowledge.startswith("It knows the blocks world")


def test_what_cannot_be_is_one_sentence(bridgeflow: Call, model: Path) -> None:
    for line, code, part in (
        (["export", "runs/own"], 2, "Missing option '-o'"),
        (["export", "nowhere", "-o", "new"], 2, "no task 'nowhere'"),
        (["export", "runs/own", "-o", str(model)], 1, "holds something already: choose another --output."),
        (["export", "runs/own", "-o", "new", "--card", "none.md"], 1, "the card 'none.md' cannot be read"),
        (["export", "runs/own", "-o", "new", "--precision", "int8"], 2, "'int8' is not one of"),
    ):
        outcome = bridgeflow(*line)
        assert part in " ".join(outcome.err.split()), (line, outcome.err)
        assert outcome.code == code, (line, outcome.err)
    assert not Path("new").exists()
