"""Names that another distribution offers too: whoever names a plugin means its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bridgeflow
from bridgeflow import UsageError, registry
from bridgeflow.checkpoints.checkpoint import open_checkpoint
from bridgeflow.cli.main import invoke
from bridgeflow.config import layers, recipe

Install = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

SMALL = [
    *("data.size=16", "data.held_out=4", "data.workers=1", "network.channels=[8]", "network.blocks=1"),
    *("network.attention=[]", "training.steps=1", "training.batch_size=2", "training.precision=fp32"),
    *("training.evaluate=0", "training.sample_every=0", "training.samples=1"),
]
RIVAL = """
from bridgeflow.data.rows import DataSettings
from bridgeflow.modality import Modality
from bridgeflow.nn.velocity import NetworkSettings
from bridgeflow.task import ModalityUse, Task
class M(Modality): ...
class T(Task):
    source = target = ModalityUse("lowres")
    default_recipe = "superres/blocks"
class D(DataSettings):
    def open(self, split, progress=None): raise RuntimeError("another's data")
class N(NetworkSettings): ...
"""
POINTS = {
    "bridgeflow.modalities": {"lowres": "aaa_rival:M", "image_latent": "aaa_rival:M"},
    "bridgeflow.tasks": {"superres": "aaa_rival:T"},
    "bridgeflow.datasets": {"blocks": "aaa_rival:D"},
    "bridgeflow.networks": {"unet": "aaa_rival:N", "dit": "aaa_rival:N"},
    "bridgeflow.recipes": {"rival": "aaa_recipes"},
}
FILES = {"aaa_rival.py": RIVAL, "aaa_recipes/superres/blocks.yaml": "task: superres\nnetwork: {name: unet}\n"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of superres, trained while nobody else offered its names."""
    place = tmp_path_factory.mktemp("named")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGEFLOW_CACHE", str(place / "cache"))
        patch.chdir(place)
        assert invoke(["train", "--task", "superres", "--device", "cpu", *SMALL]) == 0
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("small.png")
        yield place


@pytest.fixture
def rival(home: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another distribution that offers every name of superres; the name of ours."""
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    install("aaa-rival", POINTS, FILES)
    return "bridgeflow-torch:superres"


def test_a_bare_task_of_two_distributions_says_which(rival: str, capsys: Capture) -> None:
    for line in (["train", "--task", "superres"], ["run", "--task", "superres", "small.png"]):
        assert invoke(line) == 2
        assert capsys.readouterr().err == (
            "bridgeflow: the task 'superres' is offered by aaa-rival 1.0 and bridgeflow-torch "
            f"{bridgeflow.__version__}: say which, as 'aaa-rival:superres', or leave aaa-rival out with "
            "BRIDGEFLOW_PLUGINS.\n"
        )
    with pytest.raises(UsageError, match="say which"):
        bridgeflow.load("superres")


def test_a_checkpoint_means_the_distributions_that_it_notes(rival: str, capsys: Capture) -> None:
    resolved = open_checkpoint(Path("runs/superres-blocks-01")).recipe()
    assert {plugin.distribution for plugin in resolved.plugins()} == {"bridgeflow-torch"}
    assert resolved.source.__module__.startswith("bridgeflow_plugins.")
    assert (resolved.task_name, resolved.network_name) == (rival, "bridgeflow-torch:unet")
    line = ["run", "--task", rival, "small.png", "-o", "out.png", "--steps", "1", "--device", "cpu"]
    assert invoke([*line, "--checkpoint", "runs/superres-blocks-01"]) == 0
    assert invoke(line) == 0, capsys.readouterr().err
    assert invoke(["run", "--task", "aaa-rival:superres", "small.png"]) == 1
    assert "there is no checkpoint of task 'aaa-rival:superres' under 'runs'" in capsys.readouterr().err
    assert invoke(["run", "--task", "aaa-rival:superres", "small.png", "--checkpoint", "runs/superres-blocks-01"]) == 2
    assert "was trained for task 'bridgeflow-torch:superres', not 'aaa-rival:superres'" in capsys.readouterr().err


def test_the_named_task_is_trained_resumed_scored_loaded_and_inspected(rival: str, capsys: Capture) -> None:
    assert invoke(["train", "--task", rival, "--device", "cpu", *SMALL]) == 0
    made = Path("runs/superres-blocks-02")
    assert {note["distribution"] for note in open_checkpoint(made).plugins} == {"bridgeflow-torch"}
    run = bridgeflow.train(rival, output=made, resume=True, device="cpu", training={"steps": 2})
    assert (run.steps, run.folder) == (2, made)
    run = bridgeflow.train(rival, resume=True, device="cpu", training={"steps": 3})
    assert (run.steps, run.folder) == (3, made)
    assert bridgeflow.load(rival, device="cpu")("small.png", steps=1).shape == (64, 64, 3)
    capsys.readouterr()
    assert invoke(["eval", "--task", rival, "--count", "2", "--device", "cpu", "--json"]) == 0
    assert invoke(["inspect", str(made)]) == 0
    assert f"task superres (bridgeflow-torch {bridgeflow.__version__})" in capsys.readouterr().out


def test_a_recipe_means_its_own_distribution_and_a_task_its_own_modalities(rival: str) -> None:
    with pytest.raises(UsageError, match="the recipe 'superres/blocks' is offered by aaa-rival"):
        recipe.load("superres/blocks")
    ours = layers.read("bridgeflow-torch:superres/blocks")
    assert (ours["task"], ours["data"]["name"]) == (rival, "bridgeflow-torch:blocks")
    theirs = layers.read("aaa-rival:superres/blocks")
    assert (theirs["task"], theirs["network"]["name"]) == ("aaa-rival:superres", "aaa-rival:unet")
    resolved = recipe.load("bridgeflow-torch:superres/blocks")
    assert {plugin.distribution for plugin in resolved.plugins()} == {"bridgeflow-torch"}
    again = resolved.changed(training={"steps": 3})
    assert again.plugins() == resolved.plugins()


def test_what_a_recipe_leaves_unsaid_is_of_bridgeflow(rival: str) -> None:
    resolved = recipe.resolve({"task": rival, "network": {"depth": 1}}, "mine")
    found = {plugin.kind: plugin.distribution for plugin in resolved.plugins()}
    assert (found["network"], found["dataset"]) == ("bridgeflow-torch", "bridgeflow-torch")
    with pytest.raises(UsageError, match=r"the network 'dit' is offered by aaa-rival .*: say which"):
        recipe.resolve({"task": rival, "network": {"name": "dit"}}, "mine")


def test_a_data_set_is_chosen_by_its_distribution(rival: str) -> None:
    assert recipe.data_section("bridgeflow-torch:blocks") == {"name": "bridgeflow-torch:blocks"}
    assert recipe.data_section("bridgeflow-torch:folder:a:b") == {"name": "bridgeflow-torch:folder", "path": "a:b"}
    assert recipe.data_section("folder:examples") == {"name": "folder", "path": "examples"}
    with pytest.raises(UsageError, match=r"the dataset 'blocks' is offered by aaa-rival 1\.0 and bridgeflow-torch"):
        recipe.data_section("blocks")


def test_homes_count_in_their_order_and_only_where_several_offer_the_name(rival: str) -> None:
    assert registry.find("network", "unet", "nobody", "bridgeflow", "aaa-rival").distribution == "bridgeflow-torch"
    assert registry.find("network", "dimr", "aaa-rival").distribution == "bridgeflow-torch"
    with pytest.raises(UsageError, match="say which"):
        registry.find("network", "unet", "nobody")
    assert registry.is_same("task", "depth", "bridgeflow-torch:depth")
    assert not registry.is_same("task", rival, "aaa-rival:superres")


def test_without_a_clash_the_long_name_is_the_short_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    assert invoke(["run", "--task", "bridgeflow-torch:superres", "small.png", "-o", "o.png", "--steps", "1"]) == 0
    assert invoke(["recipes", "list", "--task", "Bridgeflow_Torch:superres"]) == 0
    assert bridgeflow.load("bridgeflow-torch:superres", device="cpu")("small.png", steps=1).shape == (64, 64, 3)
    assert layers.read("depth/blocks")["task"] == "depth"
