"""`bridgeflow eval`: intervals, several checkpoints, pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

Call = Callable[..., Any]

TINY = [
    "network.channels=[8,8]", "network.blocks=1", "network.attention=[]", "training.precision=fp32", "data.size=64",
    "data.held_out=40", "training.steps=3", "training.batch_size=2", "training.evaluate=0", "training.samples=1",
    "source.size=16", "target.size=16",
]  # fmt: skip


@pytest.fixture
def runs(made: Callable[..., Path]) -> tuple[str, str]:
    for name, seed in (("one", 0), ("two", 1)):
        made(f"runs/{name}", "train", "--task", "depth", *TINY, f"training.seed={seed}")
    return "runs/one", "runs/two"


def test_figures_have_intervals_and_a_picture_of_the_extremes(bridgeflow: Call, runs: tuple[str, str]) -> None:
    line = ["eval", "--task", "depth", "--checkpoint", runs[0], "--count", "24", "--picture", "all.png"]
    told = bridgeflow(*line, "--json")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    low, high = found["intervals"]["abs_rel"]["low"], found["intervals"]["abs_rel"]["high"]
    assert low < found["figures"]["abs_rel"] < high
    assert found["network_evaluations"] == 2
    assert found["seconds_each"] > 0
    quick = json.loads(bridgeflow(*line[:-2], "--quick", "--json").out)
    assert quick["figures"] == found["figures"]
    assert quick["intervals"] == {}
    with Image.open("all.png") as whole:
        tall = whole.height
    assert bridgeflow(*line[:-1], "quick.png", "--quick").code == 0
    with Image.open("quick.png") as first:
        assert tall > 2.5 * first.height
    shown = bridgeflow(*line)
    assert "95 %" in shown.out
    assert "±" in shown.out
    other = json.loads(bridgeflow(*line[:-2], "--steps", "1", "--solver", "midpoint", "--json").out)
    assert other["network_evaluations"] == 2
    assert other["figures"] != found["figures"]


def test_several_are_scored_on_the_same(bridgeflow: Call, runs: tuple[str, str]) -> None:
    line = ["eval", "--task", "depth", "--count", "16"]
    both = ["--compare", *runs]
    told = json.loads(bridgeflow(*line, *both, "--json").out)
    assert [own["checkpoint"] for own in told] == list(runs)
    alone = json.loads(bridgeflow(*line, "--checkpoint", runs[1], "--json").out)
    assert told[1]["figures"] == alone["figures"]
    shown = bridgeflow(*line, *both, "--picture", "both.png")
    assert shown.code == 0, shown.err
    assert "differences are to the first" in shown.out
    assert Path("both.png").is_file()
    low, value, high = (told[1]["differences"]["abs_rel"][key] for key in ("low", "value", "high"))
    assert low < value < high
    assert value == pytest.approx(told[1]["figures"]["abs_rel"] - told[0]["figures"]["abs_rel"])
    assert "differences" not in told[0]
    repeated = [option for run in runs for option in ("--compare", run)]
    again = json.loads(bridgeflow(*line, *repeated, "options.farthest=9", "--json").out)
    assert [own["checkpoint"] for own in again] == list(runs)
    assert [own["scored"]["options"]["farthest"] for own in again] == [9.0, 9.0]
    # A checkpoint differs from itself by nothing, for sure.
    same = bridgeflow(*line, "--compare", runs[0], "--compare", runs[0])
    assert "+0.0000 ±0.0000" in same.out


def test_relative_depth_is_aligned_where_asked(bridgeflow: Call) -> None:
    line = ["train", "--task", "depth", *TINY, "options.alignment=scale_and_shift", "-o", "runs/aligned"]
    assert bridgeflow(*line).code == 0
    aligned = json.loads(bridgeflow("eval", "--task", "depth", "--checkpoint", "runs/aligned", "--quick", "--json").out)
    assert bridgeflow("train", "--task", "depth", *TINY, "-o", "runs/metric").code == 0
    metric = json.loads(bridgeflow("eval", "--task", "depth", "--checkpoint", "runs/metric", "--quick", "--json").out)
    assert aligned["figures"]["rmse"] < metric["figures"]["rmse"]
    line = ["eval", "--task", "depth", "--checkpoint", "runs/metric", "--quick", "--json"]
    asked = json.loads(bridgeflow(*line, "options.alignment=scale_and_shift").out)
    assert asked["figures"]["rmse"] < metric["figures"]["rmse"]
    assert asked["scored"]["options"]["alignment"] == "scale_and_shift"
    assert asked["scored"]["split"] == "held_out"
    unknown = bridgeflow(*line, "options.aligned=true")
    assert unknown.code == 2
    assert "options.aligned" in unknown.err


def test_rows_of_ones_own_are_counted(bridgeflow: Call, tmp_path: Path) -> None:
    line = ["train", "--task", "superres", *TINY, "source.factor=4", "options.overlap=2", "-o", "runs/small"]
    assert bridgeflow(*line).code == 0
    folder = tmp_path / "set"
    folder.mkdir()
    for index in range(12):
        picture = torch.randint(0, 256, (20 + index, 40, 3), dtype=torch.uint8).numpy()
        Image.fromarray(picture).save(folder / f"{index:02d}.png")
    (folder / "00.png").write_bytes(b"no picture")
    line = ["eval", "--task", "superres", "--checkpoint", "runs/small", "--data", f"folder:{folder}", "--json"]
    every = bridgeflow(*line, "--split", "all")
    assert every.code == 0, every.err
    assert json.loads(every.out)["examples"] == 11
    assert "1 row cannot be read and is skipped" in " ".join(every.err.split())
    assert "00.png" in every.err
    (folder / "00.png").unlink()
    one = bridgeflow(*line)
    assert json.loads(one.out)["examples"] == 1
    assert "scoring the 1 held out of 11 rows; --split all scores every row." in " ".join(one.err.split())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["--compare", "runs/one"], "--compare needs two checkpoints or more: name them behind it."),
        (["--compare", "a", "--compare", "b", "--checkpoint", "c"], "leave --checkpoint out."),
        (["--compare", "a", "--compare", "b", "--quick"], "leave --quick out."),
        (["--compare", "a", "--compare", "b"], "there is no folder 'a'"),
        (["--weights", "lpips"], "--weights 'lpips' should be NAME=PLACE, such as lpips=alexnet.pth."),
        (["--weights", "lpips=a.pth", "--quick"], "leave --quick out."),
        (["depth/blocks-full"], "'depth/blocks-full' is no options.KEY=VALUE: a checkpoint is named by --checkpoint"),
        (["training.steps=3"], "'training.steps=3' would change what was trained: only options.KEY=VALUE"),
        (["--picture", "grid.bmp"], "--picture 'grid.bmp' must end in .png, .jpg or .webp."),
    ],
)
def test_what_cannot_be_is_one_sentence(bridgeflow: Call, line: list[str], told: str) -> None:
    outcome = bridgeflow("eval", "--task", "depth", *line)
    assert outcome.code in (1, 2)
    assert told in " ".join(outcome.err.split())


def test_an_installed_model_without_its_data_says_where_they_come_from(bridgeflow: Call) -> None:
    outcome = bridgeflow("eval", "--task", "superres")
    assert outcome.code == 1
    told = " ".join(outcome.err.split())
    assert (
        "the data of the installed model superres/photos are not here (there is no folder 'data/photos'): fetch" in told
    )
    card = Path(told.partition("fetch them as ")[2].partition(" says")[0])
    assert "make data-photos" in card.read_text(encoding="utf-8")
    other = bridgeflow("eval", "--task", "superres", "--data", "folder:nowhere")
    assert "there is no folder 'nowhere'" in other.err


def test_judges_take_weights_that_are_named(bridgeflow: Call, runs: tuple[str, str], tmp_path: Path) -> None:
    line = ["eval", "--task", "depth", "--checkpoint", runs[0], "--weights", "lpips=a.pth"]
    assert "this task has no judge 'lpips' that takes weights: it has none." in bridgeflow(*line).err
    tiny = ["network.channels=[8,8]", "network.blocks=1", "training.precision=fp32", "data.size=32", "data.held_out=8"]
    brief = ["training.steps=2", "training.batch_size=2", "training.evaluate=0", "training.samples=1"]
    assert bridgeflow("train", "--task", "superres", *tiny, *brief, "-o", "runs/large").code == 0
    line = ["eval", "--task", "superres", "--checkpoint", "runs/large", "--count", "4", "--json", "--weights"]
    assert "it has lpips, inception." in bridgeflow(*line, "clip=a").err
    assert "there is no file of weights 'absent.pth'" in bridgeflow(*line, "lpips=absent.pth").err
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeeze.pth")
    told = json.loads(bridgeflow(*line, f"lpips={tmp_path / 'squeeze.pth'}").out)
    assert told["figures"]["lpips"] > 0
    assert told["intervals"]["lpips"]["low"] < told["figures"]["lpips"] < told["intervals"]["lpips"]["high"]
    assert told["baseline"]["figures"]["lpips"] != told["figures"]["lpips"]
