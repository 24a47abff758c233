"""A user's mistake: one sentence on stderr, an exit code, nothing on stdout, never a traceback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from bridgeflow.cli.main import invoke
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow_tasks.t2i import TextToImage

Call = Callable[..., Any]
Install = Callable[..., Path]

FP32 = "training.precision=fp32"
"""One process holds to one precision; without this the first run here would measure for itself."""

WRONG_USAGE = [
    ("tarin", "no command 'tarin'. Did you mean 'train'? Commands: train, run, "),
    ("zzz", "no command 'zzz'. Commands: train, run, "),
    ("--bogus", "No such option '--bogus'. See: bridgeflow --help."),
    ("train", "Missing option '--task'. See: bridgeflow train --help."),
    ("train --task dept", "no task 'dept'. Did you mean 'depth'? Installed: caption, depth, recolour, superres, t2i."),
    ("train --task depth --recpe x", "No such option '--recpe'"),
    ("train --task depth --recipe depth/blok", "no recipe 'depth/blok'. Did you mean 'depth/blocks'?"),
    ("train --task depth --recipe none.yaml", "no recipe file 'none.yaml': "),
    (
        "train --task depth --recipe caption/blocks",
        "recipe 'caption/blocks' belongs to task 'caption', not to 'depth'.",
    ),
    (
        "train --task depth training.stepps=3",
        "recipe 'depth/blocks': training.stepps: unknown key. Did you mean 'steps'?",
    ),
    ("train --task depth training.steps=many", "recipe 'depth/blocks': training.steps: should be a whole number"),
    ("train --task depth steps", "override 'steps' is not of the form key.path=value, such as training.steps=500."),
    ("train --task depth network.channels=[1", "the value of 'network.channels', line 1 is not valid YAML: "),
    (
        "train --task depth --data blokcs",
        "no dataset 'blokcs'. Did you mean 'blocks'? Installed: blocks, cache, examples, folder, hf, "
        "recoloured_blocks, webdataset.",
    ),
    ("train --task depth --data photos", "no dataset 'photos'. For a folder of your own write --data folder:photos."),
    ("train --task depth --data blocks:3", "--data 'blocks:3': this data set takes no location"),
    ("train --task depth --columns image", "--columns 'image' is not of the form NEEDED=OWN, such as text=caption."),
    (f"train --task depth --data folder:photos {FP32}", "task 'depth' needs a column 'depth' (its depth map: "),
    (
        f"train --task superres --data folder:photos --columns pic=x {FP32}",
        "--columns names 'pic', which task 'superres' does not",
    ),
    ("train --task depth --device quantum", "--device 'quantum' is no device: cpu, cuda or cuda:1 is expected."),
    ("train --task depth --device cuda:99", "--device 'cuda:99' is not to be had: torch sees "),
    ("train --task depth --resume", "there is no run of task 'depth' under 'runs' to resume"),
    ("recipes lsit", "No such command 'lsit'. Did you mean 'list'? See: bridgeflow recipes --help."),
    ("recipes list --task dept", "no task 'dept'. Did you mean 'depth'?"),
    ("recipes show nope", "no recipe 'nope'."),
    ("plugins list --kind netwrok", "no kind 'netwrok': one of modality, task, "),
    ("plugins info unte", "no plugin 'unte'. Did you mean 'unet'?"),
    ("plugins info depth --kind netwrok", "no kind 'netwrok': one of modality, task, "),
    ("run --task depth", "nothing to run on: "),
    ("run --task depth x.png --steps 0", "Invalid value for '--steps': 0 is not in the range x>=1."),
    (
        "run --task depth x.png --solver eulr",
        "--solver 'eulr' is none: one of ab2, dopri5, ",
    ),
    ("run --task depth x.png --trajectory flow.mp4", "--trajectory 'flow.mp4' must end in .gif or .png."),
    ("eval --task depth --picture grid.txt", "--picture 'grid.txt' must end in .png, .jpg or .webp."),
    ("fit depht --data blocks", "no modality 'depht'. Did you mean 'depth'?"),
    ("fit depth --data blocks", "modality 'depth' has nothing to fit with these options: use it as it is."),
    (
        "fit image_latent --data folder:photos codec.ptach=3",
        "the options of modality 'image_latent' have a mistake: codec.",
    ),
    ("fit image_latent --data folder:photos --column pic", "has no column 'pic', only image"),
    ("data check --task depth --recipe caption/blocks", "recipe 'caption/blocks' belongs to task 'caption'"),
    ("data export --task superres --data folder:photos", "Missing option '-o' / '--output'."),
    ("doctor now", "Got unexpected extra argument (now). See: bridgeflow doctor --help."),
]

FAILED = [
    (
        f"train --task superres --data folder:nowhere {FP32}",
        "there is no folder 'nowhere': give one that holds pictures",
    ),
    (f"train --task superres --data folder:empty {FP32}", "the folder 'empty' holds no pictures (.png, "),
    ("data check --task depth --data folder:nowhere", "there is no folder 'nowhere': "),
    ("data export --task superres --data folder:photos -o photos", "'photos' holds something already: choose another"),
    ("run --task t2i words", "there is no checkpoint of task 't2i' under 'runs': train one with bridgeflow train"),
    ("run --task depth x.png --checkpoint nowhere", "there is no folder 'nowhere': --checkpoint takes a run"),
    ("run --task depth x.png --checkpoint empty", "'empty' holds no checkpoint: "),
    ("eval --task depth --checkpoint nowhere", "there is no folder 'nowhere': --checkpoint takes a run"),
    ("inspect nowhere", "there is no folder 'nowhere': give a run or a checkpoint of one."),
    ("inspect empty", "'empty' holds no checkpoint: "),
    ("fit image_latent --data folder:empty", "the folder 'empty' holds no pictures (.png, "),
]


@pytest.mark.parametrize(
    ("code", "line", "told"),
    [(2, *case) for case in WRONG_USAGE] + [(1, *case) for case in FAILED],
    ids=[line for line, _ in WRONG_USAGE + FAILED],
)
def test_mistake_is_one_sentence_and_an_exit_code(
    bridgeflow: Call, photos: Path, monkeypatch: pytest.MonkeyPatch, code: int, line: str, told: str
) -> None:
    monkeypatch.setattr(TextToImage, "default_model", "")
    Path("empty").mkdir()
    Path("photos").symlink_to(photos)
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115
    outcome = bridgeflow(*line.split())
    assert outcome.code == code
    assert outcome.out == ""
    (sentence,) = outcome.err.splitlines()
    assert sentence.startswith("bridgeflow: ")
    assert told in sentence
    assert sentence.endswith((".", "?"))
    assert ".." not in sentence
    assert not Path("runs").exists()


def test_several_mistakes_stand_in_lines_of_their_own(bridgeflow: Call) -> None:
    outcome = bridgeflow("train", "--task", "depth", "training.stepps=3", "network.pacth=1")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "bridgeflow: recipe 'depth/blocks' has 2 mistakes:",
        "  training.stepps: unknown key. Did you mean 'steps'?",
        "  network.pacth: unknown key. Did you mean 'patch'?",
    ]


@pytest.mark.parametrize("group", ["", "tasks", "recipes", "plugins", "data"])
def test_group_without_a_command_shows_its_help(bridgeflow: Call, group: str) -> None:
    outcome = bridgeflow(*group.split())
    shown = outcome.err + outcome.out
    assert shown.startswith(f"Usage: bridgeflow {group}".rstrip())
    assert "Commands:" in shown


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise ValueError('no licence')", "(ValueError: no licence): pip install --force-reinstall --no-deps acme"),
        ("import nonesuch_lib", "nonesuch_lib'): install what has the module 'nonesuch_lib' "),
        ("import sys; sys.exit(0)", "(SystemExit: 0): "),
        ("class T:\n    api_version = 9", "is written for version 9 of the contract"),
    ],
)
def test_plugin_that_fails_to_import_fails_only_the_command_that_asks_for_it(
    bridgeflow: Call, install: Install, source: str, told: str
) -> None:
    install("acme", {"bridgeflow.tasks": {"bad": "acme_err:T"}}, {"acme_err.py": source}, version="1.2")
    outcome = bridgeflow("train", "--task", "bad")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("bridgeflow: the task 'bad' of acme 1.2 ")
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert "bad" in bridgeflow("tasks", "list").out
    assert bridgeflow("plugins", "info", "unet").code == 0


def test_two_distributions_of_one_name_are_both_named(bridgeflow: Call, install: Install) -> None:
    for name in ("acme", "umbrella"):
        install(name, {"bridgeflow.tasks": {"same": f"{name}_same:T"}}, {f"{name}_same.py": "class T: ..."})
    outcome = bridgeflow("train", "--task", "same")
    assert outcome.code == 2
    assert outcome.err == (
        "bridgeflow: the task 'same' is offered by acme 1.0 and umbrella 1.0: say which, as 'acme:same', or leave "
        "acme or umbrella out with BRIDGEFLOW_PLUGINS.\n"
    )


def test_debug_raises_what_went_wrong(bridgeflow: Call) -> None:
    with pytest.raises(UsageError, match="no task 'dept'"):
        invoke(["--debug", "train", "--task", "dept"])
    with pytest.raises(BridgeflowError, match="there is no folder"):
        invoke(["inspect", "nowhere", "--debug"])
    with pytest.raises(click.UsageError, match="Missing parameter: task"):
        invoke(["train", "--debug"])


def test_unforeseen_error_is_one_sentence_that_asks_for_a_report(bridgeflow: Call, install: Install) -> None:
    source = "from bridgeflow.task import Task\nclass T(Task):\n    @property\n    def source(self): ...\n"
    install("acme", {"bridgeflow.tasks": {"odd": "acme_odd_task:T"}}, {"acme_odd_task.py": source})
    outcome = bridgeflow("train", "--task", "odd", "--recipe", "depth/blocks", "task=odd")
    assert outcome.code == 1
    (sentence,) = outcome.err.splitlines()
    assert sentence.startswith("bridgeflow: something unforeseen went wrong (")
    assert sentence.endswith("run it again with --debug and report what it shows.")


@pytest.mark.parametrize(
    ("arguments", "code"), [(["tasks", "list"], 0), (["train", "--task", "bad"], 1), (["trian"], 2), ([], 2)]
)
def test_exit_codes_reach_the_shell(
    install: Install, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    folder = install("acme", {"bridgeflow.tasks": {"bad": "acme_shell:T"}}, {"acme_shell.py": "raise ValueError"})
    monkeypatch.setenv("PYTHONPATH", str(folder))
    line = [sys.executable, "-m", "bridgeflow", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    line = f"{sys.executable} -m bridgeflow plugins list | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


SMALL = ["source.size=32", "target.size=32", "network.channels=[8]", "network.blocks=1", "training.steps=1"]
SMALL += ["training.evaluate=0", "training.sample_every=0", "training.samples=1", "training.batch_size=2"]
SMALL += [FP32]


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on those pictures, super-resolution without guidance."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    line = ["train", "--task", "superres", "--data", f"folder:{photos}", "--output", str(folder), *SMALL]
    assert invoke(line) == 0
    return folder


def test_guidance_needs_a_model_that_learned_it(bridgeflow: Call, trained: Path, photos: Path) -> None:
    arguments = ["run", "--task", "superres", str(photos / "0.png"), "--checkpoint", str(trained)]
    outcome = bridgeflow(*arguments, "--guidance", "2")
    assert outcome.code == 2
    assert "--guidance needs a model trained with null_rate above 0; this one was trained without." in outcome.err
    assert bridgeflow(*arguments, "--guidance", "1").code == 0


@pytest.mark.parametrize("command", [["run", "x.png"], ["eval"]])
def test_checkpoint_of_another_task_is_refused(bridgeflow: Call, trained: Path, command: list[str]) -> None:
    outcome = bridgeflow(*command, "--task", "depth", "--checkpoint", str(trained))
    assert outcome.code == 2
    assert "was trained for task 'superres', not 'depth'." in outcome.err.splitlines()[-1]


def test_input_that_cannot_be_read_is_named_and_the_others_go_on(bridgeflow: Call, trained: Path, photos: Path) -> None:
    names = [str(photos / name) for name in ("0.png", "broken.png", "gone.png", "1.png")]
    outcome = bridgeflow("run", "--task", "superres", *names, "--checkpoint", str(trained), "-o", "out")
    assert outcome.code == 1
    written = outcome.out.splitlines()
    assert len(written) == 2
    assert all(Path(name).is_file() for name in written)
    told = [line for line in outcome.err.splitlines() if line.startswith("bridgeflow: ")]
    assert len(told) == 3
    assert "broken.png" in told[0]
    assert "gone.png" in told[1]
    assert told[2] == "bridgeflow: 2 of 4 inputs gave no result."


def test_inputs_that_cannot_be_listed_are_named_and_the_others_go_on(
    bridgeflow: Call, trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty").mkdir()
    good = str(photos / "0.png")
    line = ["run", "--task", "superres", "--checkpoint", str(trained), "-o", "out"]
    empty = "bridgeflow: the folder 'empty' holds no file that ends in .png, .jpg"
    outcome = bridgeflow(*line, "empty", good, "--json")
    assert outcome.code == 1
    assert [result["input"] for result in json.loads(outcome.out)["results"]] == [good]
    assert f"\n{empty}" in outcome.err
    assert outcome.err.endswith("bridgeflow: 1 of 2 inputs gave no result.\n")
    piped = f"{good}\n".encode() + b"caf\xe9.png\nempty\n"
    for more, files in (((), 1), (("--interpolate", good, "--frames", "2"), 3)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
        outcome = bridgeflow(*line, *more)
        assert (outcome.code, len(outcome.out.splitlines())) == (1, files)
        assert "\nbridgeflow: line 2 on stdin is not UTF-8 text (" in outcome.err
        assert f"\n{empty}" in outcome.err
    outcome = bridgeflow(*line, good, "--plus", "empty")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1].startswith(empty)


def test_run_that_is_there_is_not_overwritten(bridgeflow: Call, trained: Path, photos: Path) -> None:
    line = ["train", "--task", "superres", "--data", f"folder:{photos}", "--output", str(trained), *SMALL]
    outcome = bridgeflow(*line)
    assert outcome.code == 2
    assert "holds a run already: add --resume to go on with it, or choose another --output." in outcome.err


def test_data_check_names_the_rows_that_training_could_not_use(bridgeflow: Call, photos: Path) -> None:
    line = ["data", "check", "--task", "superres", "--data", f"folder:{photos}", "source.size=32", "target.size=32"]
    outcome = bridgeflow(*line)
    assert outcome.code == 1
    assert len([line for line in outcome.out.splitlines() if "broken.png" in line]) == 1
    facts = json.loads(bridgeflow(*line, "--json").out)
    assert facts["train"]["rows"] + facts["held_out"]["rows"] == 7
    (sentence,) = facts["train"]["broken"] + facts["held_out"]["broken"]
    assert "broken.png" in sentence
    # Cuts of 64 pixels, the recipe's own size, fit into none of them.
    assert len(json.loads(bridgeflow(*line[:-2], "--json").out)["train"]["broken"]) == 6


def test_data_check_does_not_wait_for_a_codec_to_be_fitted(bridgeflow: Call, photos: Path) -> None:
    outcome = bridgeflow("data", "check", "--task", "caption", "--data", f"folder:{photos}", "--json")
    facts = json.loads(outcome.out)
    broken = facts["train"]["broken"] + facts["held_out"]["broken"]
    assert len(broken) == 1
    assert "the column 'text' is empty" in broken[0]
