"""bridgeflow as a library: loading, training, looking at what is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bridgeflow
from bridgeflow import BridgeflowError, UsageError
from bridgeflow.checkpoints.finding import find_checkpoint
from bridgeflow.modality import Modality
from bridgeflow_tasks.t2i import TextToImage

Install = Callable[..., Path]

SMALL = {
    "data.size": 16,
    "data.held_out": 4,
    "data.workers": 1,
    "network": {"channels": [8], "blocks": 1, "attention": []},
    "training": {"steps": 2, "batch_size": 2, "precision": "fp32", "sample_every": 0, "samples": 1},
    "training.evaluate": 2,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of superres, and one beside it that is called depth."""
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGEFLOW_CACHE", str(place / "cache"))
        patch.chdir(place)
        bridgeflow.train("superres", device="cpu", **SMALL)
        yield place


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


HEAVY = ("torch", "pydantic", "numpy", "transformers", "PIL", "yaml", "bridgeflow_plugins", "bridgeflow_tasks")


def test_importing_and_looking_around_import_nothing_heavy() -> None:
    code = (
        "import sys, bridgeflow\n"
        "seen = [repr(bridgeflow.tasks), list(bridgeflow.modalities), len(bridgeflow.networks), dir(bridgeflow)]\n"
        "assert 'depth' in bridgeflow.tasks and 'depth/blocks' in bridgeflow.recipes\n"
        "assert callable(bridgeflow.load) and callable(bridgeflow.train)\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_no_other() -> None:
    assert set(bridgeflow.__all__) <= set(dir(bridgeflow))
    assert all(getattr(bridgeflow, name) is not None for name in bridgeflow.__all__)
    with pytest.raises(AttributeError, match="module 'bridgeflow' has no attribute 'lode'"):
        bridgeflow.lode  # noqa: B018


def test_mappings_hold_what_is_installed() -> None:
    assert issubclass(bridgeflow.modalities["text"], Modality)
    assert bridgeflow.tasks["depth"].target.name == "depth"
    assert bridgeflow.networks["unet"].model_fields["patch"].default == 1
    assert bridgeflow.datasets["blocks"].__name__ == "Blocks"
    assert bridgeflow.recipes["depth/folder"]["task"] == "depth"
    assert bridgeflow.recipes["bridgeflow:depth/folder"] == bridgeflow.recipes["depth/folder"]
    assert list(bridgeflow.modalities) == ["depth", "image_latent", "lowres", "text"]
    assert len(bridgeflow.modalities) == 4
    assert repr(bridgeflow.networks) == "<bridgeflow.networks: dimr, dit, reading_dit, unet>"
    assert "image_latent" in bridgeflow.modalities
    assert "unet" not in bridgeflow.modalities
    assert 3 not in bridgeflow.modalities


def test_a_name_that_is_not_there_is_a_key_error_that_suggests() -> None:
    assert bridgeflow.tasks.get("dept") is None
    for error in (KeyError, UsageError):
        with pytest.raises(error) as caught:
            bridgeflow.tasks["dept"]
        assert str(caught.value).startswith("no task 'dept'. Did you mean 'depth'? Installed: caption, depth, ")
    with pytest.raises(UsageError, match=r"no recipe 'depth/bloks'\. Did you mean 'depth/blocks'\?"):
        bridgeflow.recipes["depth/bloks"]


def test_a_name_of_two_distributions_is_a_key_for_each(install: Install) -> None:
    text = "from bridgeflow.task import Task\nclass T(Task): ...\n"
    for name in ("acme", "umbrella"):
        install(name, {"bridgeflow.tasks": {"same": f"{name}_same:T"}}, {f"{name}_same.py": text})
    keys = [key for key in bridgeflow.tasks if "same" in key]
    assert keys == ["acme:same", "umbrella:same"]
    assert [bridgeflow.tasks[key].__module__ for key in keys] == ["acme_same", "umbrella_same"]
    with pytest.raises(UsageError, match=r"is offered by acme 1\.0 and umbrella 1\.0: say which"):
        bridgeflow.tasks["same"]


def test_a_run_tells_its_folder_checkpoint_and_figures(at_home: Path, picture: np.ndarray) -> None:
    run = bridgeflow.train("superres/blocks", output=Path("mine"), device="cpu", **{**SMALL, "training.steps": 3})
    assert run.folder == Path("mine")
    assert run.checkpoint == Path("mine/checkpoints/000003")
    assert (run.steps, run.interrupted) == (3, None)
    assert run.seconds > 0
    assert run.report is not None
    assert run.report.count == 2
    result = run.load(device="cpu")(picture)
    assert result.shape == (64, 64, 3)
    further = bridgeflow.train("superres", output="mine", resume=True, device="cpu", training={"steps": 4})
    assert further.checkpoint == Path("mine/checkpoints/000004")
    with pytest.raises(UsageError, match=r"'mine' holds a run already"):
        bridgeflow.train("superres", output="mine", device="cpu", **SMALL)


def test_a_recipe_is_a_name_a_file_or_a_mapping(at_home: Path, tmp_path: Path) -> None:
    from bridgeflow.config import layers

    own = {"extends": "superres/blocks", "null_rate": 0.25}
    made = bridgeflow.train(own, device="cpu", **SMALL)
    assert made.folder == Path("runs/superres-own-01")
    assert layers.read(str(made.folder / "recipe.yaml"))["null_rate"] == 0.25
    file = tmp_path / "quick.yaml"
    file.write_text(layers.dump(own))
    made = bridgeflow.train(file, device="cpu", **SMALL, **{"optimizer.learning_rate": 2e-4})
    assert made.folder == Path("runs/quick-01")
    tree = layers.read(str(made.folder / "recipe.yaml"))
    assert (tree["null_rate"], tree["optimizer"]["learning_rate"]) == (0.25, 2e-4)
    assert (tree["network"]["channels"], tree["training"]["steps"], tree["data"]["size"]) == ([8], 2, 16)


def test_data_in_its_short_form_chooses_the_recipe_for_it(at_home: Path) -> None:
    with pytest.raises(BridgeflowError, match="there is no folder 'nowhere': give one that holds pictures"):
        bridgeflow.train("superres", device="cpu", data="folder:nowhere")
    with pytest.raises(UsageError, match=r"^recipe 'superres/folder': trainin: unknown key"):
        bridgeflow.train("superres", device="cpu", data="folder:nowhere", trainin={"steps": 2})


def test_every_mistake_of_a_recipe_is_told_at_once(at_home: Path) -> None:
    with pytest.raises(UsageError) as caught:
        bridgeflow.train("depth", training={"stepz": 3}, **{"optimizer.learning_rate": -1})
    assert "recipe 'depth/blocks' has 2 mistakes:" in str(caught.value)
    assert "training.stepz: unknown key. Did you mean 'steps'?" in str(caught.value)
    assert "optimizer.learning_rate: should be greater than 0" in str(caught.value)


def test_one_input_gives_one_result_and_a_list_gives_a_list(at_home: Path, picture: np.ndarray, tmp_path: Path) -> None:
    pipeline = bridgeflow.load("superres", device="cpu")
    one = pipeline(picture, steps=2)
    assert (one.dtype, one.shape) == (np.uint8, (64, 64, 3))
    Image.fromarray(picture).save(tmp_path / "small.png")
    given = [picture, Image.fromarray(picture), tmp_path / "small.png", str(tmp_path / "small.png")]
    several = pipeline(given, steps=2)
    assert isinstance(several, list)
    assert [np.abs(own.astype(int) - one).max() <= 1 for own in several] == [True] * 4
    drawn = pipeline(picture, samples=3, steps=2)
    assert [own.shape for own in drawn] == [(64, 64, 3)] * 3
    assert [len(own) for own in pipeline((picture, picture), samples=2, steps=1)] == [2, 2]
    assert pipeline([]) == []


def test_sampling_of_a_call_is_that_of_the_call_alone(at_home: Path, picture: np.ndarray) -> None:
    pipeline = bridgeflow.load("superres", device="cpu")
    before = pipeline.sampling
    pipeline(picture, steps=3)
    assert pipeline.evaluations == 3
    pipeline(picture, steps=3, solver="heun")
    assert pipeline.evaluations == 6
    assert pipeline.sampling == before


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"samples": 0}, "samples should be at least 1, not 0."),
        ({"steps": 0}, "steps 0 is not within 1 to 10,000, as a solver takes."),
        ({"solver": "rk9"}, "solver 'rk9' is none: one of ab2, dopri5, euler, heun, midpoint is expected."),
        ({"guidance": 3.0}, "guidance needs a model trained with null_rate above 0; this one was trained without."),
        ({"guidance": float("nan")}, "guidance nan is not a number: 1 is none, 2 to 7 are usual."),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(
    at_home: Path, picture: np.ndarray, given: dict[str, object], told: str
) -> None:
    pipeline = bridgeflow.load("runs/superres-blocks-01", device="cpu")
    with pytest.raises(UsageError) as caught:
        pipeline(picture, **given)
    assert str(caught.value) == told


def test_an_input_that_cannot_be_read_is_named(at_home: Path) -> None:
    with pytest.raises(BridgeflowError, match=r"gone\.png"):
        bridgeflow.load("superres", device="cpu")("gone.png")


@pytest.mark.parametrize(
    ("given", "how", "told"),
    [
        ("superess", {}, "no task 'superess'. Did you mean 'superres'? "),
        ("t2i", {}, "there is no run of task 't2i' under 'runs': train one with bridgeflow.train('t2i'), or "),
        ("runs/gone", {}, "there is no folder 'runs/gone': give a task's name, or the folder of a run"),
        (Path("superres"), {}, "there is no folder 'superres': give a task's name, or "),
        ("", {}, "there is no folder '': "),
        ("superres", {"precision": "int3"}, "no precision 'int3': fp32, bf16 or auto is expected."),
        ("superres", {"device": "toaster"}, "device 'toaster' is no device: cpu, cuda or cuda:1 is expected."),
        ("superres", {"device": "cuda:77"}, "device 'cuda:77' is not to be had: torch sees "),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, given: str | Path, how: dict[str, str], told: str
) -> None:
    monkeypatch.setattr(TextToImage, "default_model", "")
    with pytest.raises(BridgeflowError) as caught:
        bridgeflow.load(given, **how)
    assert str(caught.value).startswith(told)


def test_a_name_means_the_task_and_a_path_the_folder(at_home: Path, picture: np.ndarray, tmp_path: Path) -> None:
    latest = find_checkpoint("superres").folder.resolve()
    (tmp_path / "superres").symlink_to(at_home / "runs" / "superres-blocks-01")
    for given in (tmp_path / "superres", str(at_home / "runs" / "superres-blocks-01" / "checkpoints" / "000002")):
        assert find_checkpoint(given).step == 2
    assert latest.parents[2] == (at_home / "runs").resolve()


@pytest.mark.parametrize(
    ("recipe", "how", "told"),
    [
        ("superess", {}, "no task 'superess'. Did you mean 'superres'?"),
        ("superres/bloks", {}, "no recipe 'superres/bloks'. Did you mean 'superres/blocks'?"),
        ("gone.yaml", {}, "no recipe file 'gone.yaml': "),
        ("superres/blocks", {"resume": True}, "resume goes on with the run's own recipe: give the name of its task"),
        ("superres", {"resume": True, "network": {"blocks": 2}}, "resume keeps the model as it is: 'network' cannot"),
        ("depth", {"resume": True, "output": "runs/superres-blocks-01"}, "the run in 'runs/superres-blocks-01' is one"),
        ("superres", {"device": "toaster"}, "device 'toaster' is no device: "),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(at_home: Path, recipe: str, how: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        bridgeflow.train(recipe, **how)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": 2.5}, "steps should be a whole number, not 2.5."),
        ({"steps": "3"}, "steps should be a whole number, not '3'."),
        ({"steps": True}, "steps should be a whole number, not True."),
        ({"samples": "2"}, "samples should be a whole number, not '2'."),
        ({"samples": 1.5}, "samples should be a whole number, not 1.5."),
        ({"seed": None}, "seed should be a whole number, not None."),
        ({"seed": 1.5}, "seed should be a whole number, not 1.5."),
        ({"guidance": "2"}, "guidance '2' is not a number: 1 is none, 2 to 7 are usual."),
        ({"guidance": True}, "guidance True is not a number: 1 is none, 2 to 7 are usual."),
        ({"solver": 3}, "solver 3 is none: one of ab2, dopri5, euler, heun, midpoint is expected."),
    ],
)
def test_what_is_no_number_is_refused_by_its_name(at_home: Path, given: dict[str, object], told: str) -> None:
    pipeline = bridgeflow.load("runs/superres-blocks-01", device="cpu")
    with pytest.raises(UsageError) as caught:
        pipeline("small.png", **given)
    assert str(caught.value) == told
    assert pipeline.adjusted(steps=np.int64(3)).solver.steps == 3


@pytest.mark.parametrize(
    ("recipe", "how", "told"),
    [
        ("depth", {"data": Path("photos")}, "data should be a name, such as 'blocks' or 'folder:photos', or a mapping"),
        ("depth", {"data": None}, "data should be a name"),
        ("depth", {"data": 3}, "data should be a name"),
        ({"extends": 5}, {}, "extends names one recipe, such as 'depth/blocks', not 5."),
        ({"extends": ["depth/blocks"]}, {}, "extends names one recipe"),
        ("depth", {"steps": 20}, "recipe 'depth/blocks': steps: unknown key. Did you mean 'training.steps'?"),
        ("depth", {"batch_size": 2}, "recipe 'depth/blocks': batch_size: unknown key. Did you mean 'samp"),
        ("depth", {"device": "meta"}, "device 'meta' is none that models run on: cpu, cuda or cuda:1 is"),
        ("depth", {"device": ["cpu"]}, "device ['cpu'] is no device: "),
        ("depth", {"resume": True}, "there is no run of task 'depth' under 'runs' to resume: start one without res"),
        ("superres", {"output": "/etc/passwd"}, "output '/etc/passwd' is a file: a run needs a folder."),
        ("superres", {"output": "runs/superres-blocks-01"}, "'runs/superres-blocks-01' holds a run already: add resum"),
    ],
)  # fmt: skip
def test_a_wrong_argument_of_train_is_told_in_its_own_words(
    at_home: Path, recipe: object, how: dict[str, object], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        bridgeflow.train(recipe, **how)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("key", [5, None, Path("text")])
def test_a_key_that_is_no_name_is_a_key_error(key: object) -> None:
    for mapping in (bridgeflow.modalities, bridgeflow.recipes):
        assert key not in mapping
        with pytest.raises(KeyError, match="a name is expected, such as"):
            mapping[key]


def test_the_device_of_one_training_is_not_that_of_the_next(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    bridgeflow.train("superres", output=tmp_path / "run", device="cpu:0", **SMALL)
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
