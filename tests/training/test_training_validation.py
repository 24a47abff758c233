"""val/loss: what it measures, and that the training is the same with it and without."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from bridgeflow.assembly import Assembly, assemble
from bridgeflow.assembly.preparing import open_rows
from bridgeflow.bridge import Bridge
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.pairs import read_pairs
from bridgeflow.errors import BridgeflowError
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.runtime.console import Progress
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.start import Run
from bridgeflow.training.validation import TIMES, FixedTime, Validation, read_held_out

Make = Callable[..., Recipe]
Train = Callable[..., Run]
STATES = ("model.safetensors", "ema.safetensors", "trainer/optimizer.safetensors")
VARIATIONAL = (
    "source_encoder={name: variational, width: 16, depth: 1, heads: 2, patch: 16, target_patch: 16, mean_norm: batch}",
    "encoding.kind=cross",
    "null_rate=0.5",
)


PLAIN = ("prediction=velocity", "time.weight=none")


def lines_of(run: Run | Path) -> list[dict[str, float]]:
    folder = run if isinstance(run, Path) else run.folder
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def measured(recipe: Recipe) -> tuple[Assembly, Bridge, Validation]:
    """A bridge with weights that are no good, and what measures it."""
    assembly = assemble(recipe)
    torch.manual_seed(0)
    bridge = assembly.build_bridge().eval()
    with torch.no_grad():
        for weight in bridge.network.parameters():
            # A fresh network gives nothing at all.
            weight.add_(0.05 * torch.randn_like(weight))
    pairs = read_held_out(assembly, open_rows(recipe, "held_out", Progress(quiet=True)))
    return assembly, bridge, Validation(assembly, pairs, make_accelerator(recipe.training, "cpu").autocast)


@pytest.mark.parametrize("more", [(), VARIATIONAL, ("training.ema=0",)], ids=["direct", "variational", "no average"])
def test_the_training_is_the_same_with_it_and_without(
    more: tuple[str, ...], tiny_depth: Make, quiet_train: Train
) -> None:
    runs = [
        quiet_train(
            tiny_depth("training.steps=6", "training.sample_every=2", "training.checkpoint_every=3", *more, own),
            output=own.partition("=")[2],
        )
        for own in ("training.validation=0", "training.validation=3")
    ]
    without, with_it = (lines_of(run) for run in runs)
    assert [line["step"] for line in with_it if "val/loss" in line] == [2, 4, 6]
    assert not any("val/loss" in line for line in without)
    for name in ("train/loss", "grad_norm", "source/z0_std"):
        assert [line[name] for line in without] == [line[name] for line in with_it]
    for step in ("000003", "000006"):
        for name in STATES[:1] if "training.ema=0" in more else STATES:
            own, other = (load_file(run.folder / "checkpoints" / step / name) for run in runs)
            assert own.keys() == other.keys()
            assert all(torch.equal(own[key], other[key]) for key in own), f"{step} {name}"


def test_it_is_the_mean_over_pairs_and_times_of_the_velocity_s_squared_error(tiny_depth: Make) -> None:
    recipe = tiny_depth("training.validation=6", *PLAIN)
    assembly, bridge, validation = measured(recipe)
    rows = open_rows(recipe, "held_out", Progress(quiet=True))
    pairs = [pair for pair in read_pairs(rows, assembly.task, {}, 6) if not isinstance(pair, BridgeflowError)]
    source = assembly.source.encode(assembly.source.collate([pair[0] for pair in pairs]))
    target = assembly.target.encode(assembly.target.collate([pair[1] for pair in pairs]))
    expected = []
    with torch.no_grad():
        z0, left = bridge.source_encoder(source).z0, 1 - 1e-5
        for t in TIMES:
            z_t = (1 - left * t) * z0 + t * target.mean
            own = bridge.network(z_t, torch.full((6,), t), torch.zeros(6, dtype=torch.bool))
            wrong = (own - (target.mean - left * z0)).square()
            real = torch.ones_like(wrong) if target.mask is None else target.mask.expand_as(wrong).float()
            expected.append(float(((wrong * real).flatten(1).sum(1) / real.flatten(1).sum(1)).mean()))
    found = validation(bridge)
    assert found.pop("val/loss") == pytest.approx(np.mean(expected), rel=1e-5)
    assert list(found) == [
        "val/loss_t0.0-0.2", "val/loss_t0.2-0.4", "val/loss_t0.4-0.6", "val/loss_t0.6-0.8", "val/loss_t0.8-1.0",
    ]  # fmt: skip
    assert list(found.values()) == pytest.approx([np.mean(expected[n : n + 2]) for n in range(0, 10, 2)], rel=1e-5)
    assert max(found.values()) > 1.001 * min(found.values())


def test_it_is_the_same_whenever_it_is_asked_and_draws_nothing_of_the_training_s(tiny_depth: Make) -> None:
    _, bridge, validation = measured(tiny_depth("training.validation=6", *VARIATIONAL))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = validation(bridge)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert validation(bridge) == first
    # Draws are a row's own: other batches change nothing but the order in which numbers are added.
    _, _, otherwise = measured(tiny_depth("training.validation=6", "training.batch_size=3", *VARIATIONAL))
    assert otherwise(bridge) == pytest.approx(first, rel=1e-5)
    _, _, fewer = measured(tiny_depth("training.validation=5", *VARIATIONAL))
    assert fewer(bridge)["val/loss"] != pytest.approx(first["val/loss"], rel=1e-4)


def test_it_is_measured_with_the_average_and_not_with_the_raw_weights(tiny_depth: Make, quiet_train: Train) -> None:
    recipe = tiny_depth("training.steps=6", "training.ema=0.9", "optimizer.learning_rate=1e-2")
    run = quiet_train(recipe)
    _, bridge, validation = measured(recipe)
    told = lines_of(run)[-1]["val/loss"]
    for name, same in (("ema.safetensors", True), ("model.safetensors", False)):
        bridge.load_state_dict(load_file(run.outcome.checkpoint / name))
        assert (validation(bridge)["val/loss"] == pytest.approx(told, rel=1e-4)) is same


def test_the_weight_of_the_loss_along_the_path_counts_and_the_density_of_times_does_not(tiny_depth: Make) -> None:
    figures = []
    for time in ("{}", "{density: power, power: 3}", "{weight: source}"):
        _, bridge, validation = measured(tiny_depth(*PLAIN, f"time={time}"))
        figures.append(validation(bridge))
    plain, steep, weighted = figures
    assert steep == plain
    means = {"val/loss_t0.0-0.2": 1.8, "val/loss_t0.4-0.6": 1.0, "val/loss_t0.8-1.0": 0.2}
    for name, weight in means.items():
        assert weighted[name] / plain[name] == pytest.approx(weight, rel=0.02)
    assert torch.equal(FixedTime(at=0.35).sample(3), torch.full((3,), 0.35))
    assert isinstance(FixedTime(at=0.35), TimeSchedule)


def test_it_falls_while_a_run_learns_and_each_line_is_whole(tiny_depth: Make, quiet_train: Train) -> None:
    run = quiet_train(
        tiny_depth(
            "training.steps=30", "training.sample_every=9", "training.log_every=4", "optimizer.learning_rate=3e-3"
        )
    )
    lines = lines_of(run)
    # Where it is measured there is a line, with all figures.
    assert [line["step"] for line in lines] == [4, 8, 9, 12, 16, 18, 20, 24, 27, 28, 30]
    assert all("train/loss" in line and "lr" in line for line in lines)
    losses = [line["val/loss"] for line in lines if "val/loss" in line]
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]


def photos(folder: Path, count: int, broken: int = 0) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    for number in range(broken):
        (folder / f"broken{number}.png").write_bytes(b"not a picture")


SUPERRES = (
    "source.size=32", "target.size=32", "network.channels=[8,16]", "network.blocks=1", "training.steps=2",
    "training.batch_size=2", "training.evaluate=0", "training.precision=fp32", "training.sample_every=0",
)  # fmt: skip


def test_rows_that_cannot_be_read_are_passed_over(quiet_train: Train, tmp_path: Path) -> None:
    photos(tmp_path / "photos/train", 4)
    photos(tmp_path / "photos/test", 3, broken=2)
    recipe = recipes.load("superres/folder", SUPERRES, data=f"folder:{tmp_path / 'photos'}")
    assert "val/loss" in lines_of(quiet_train(recipe))[-1]
    held_out = open_rows(recipe, "held_out", Progress(quiet=True))
    assert len(held_out) == 5  # type: ignore[arg-type]
    assert [len(batch) for batch in read_held_out(assemble(recipe), held_out)] == [2, 1]  # type: ignore[arg-type]


def test_where_nothing_is_held_out_nothing_is_measured(quiet_train: Train, tmp_path: Path) -> None:
    photos(tmp_path / "photos", 4)
    recipe = recipes.load("superres/folder", [*SUPERRES, "data.held_out=0"], data=f"folder:{tmp_path / 'photos'}")
    run = quiet_train(recipe)
    assert run.outcome.step == 2
    assert not any(name.startswith("val/") for line in lines_of(run) for name in line)


def test_held_out_pairs_that_cannot_be_used_cost_the_figure_and_not_the_run(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: Validation, device: torch.device) -> None:
        raise BridgeflowError("`encode` gave nothing: fix it.")

    monkeypatch.setattr(Validation, "_encode", refused)
    run = quiet_train(tiny_depth("training.steps=4", "training.sample_every=2"))
    assert run.outcome.step == 4
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("val/loss is not measured, since held-out pairs cannot be used: `encode` gave nothing") == 1


def test_a_loss_that_is_not_finite_is_no_figure(tiny_depth: Make) -> None:
    _, bridge, validation = measured(tiny_depth())
    with torch.no_grad():
        next(bridge.network.parameters()).fill_(float("inf"))
    assert validation(bridge) == {}


def test_a_codec_that_draws_at_random_gives_the_same_figure_each_time(
    tiny_depth: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shaken() -> Iterator[dict[str, float]]:
        for seed in (1, 2):
            assembly, bridge, validation = measured(tiny_depth())
            encode = assembly.target.encode

            def drawing(batch: dict[str, Tensor], encode: Any = encode) -> Any:
                found = encode(batch)
                found.mean.add_(torch.randn_like(found.mean))
                return found

            monkeypatch.setattr(assembly.target, "encode", drawing)
            torch.manual_seed(seed)
            yield validation(bridge)

    first, second = shaken()
    assert first == second
