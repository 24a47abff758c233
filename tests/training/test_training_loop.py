import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bridgeflow.config.keys import LearningRateSettings
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.training import loop, optimizers
from bridgeflow.training.average import WeightAverage
from bridgeflow.training.dry_run import dry_run
from bridgeflow.training.start import Run

Make = Callable[..., Recipe]
Train = Callable[..., Run]


def test_learning_rate_rises_and_falls() -> None:
    settings = LearningRateSettings(warmup=10, decay="cosine", final=0.1)
    shares = [optimizers.learning_rate_share(step, 110, settings) for step in range(110)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == pytest.approx(1.0)
    assert shares[60] == pytest.approx(0.1 + 0.9 * 0.5, abs=1e-9)
    assert shares[109] == pytest.approx(0.1, abs=1e-3)
    constant = LearningRateSettings(warmup=0, decay="constant")
    assert optimizers.learning_rate_share(0, 5, constant) == optimizers.learning_rate_share(4, 5, constant) == 1.0


def test_weight_average_follows_its_formula() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = WeightAverage(module, 0.5)
    nn.init.ones_(module.weight)
    expected = 0.0
    for update in range(1, 8):
        average.update(module)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay)
        assert average.module.weight.item() == pytest.approx(expected)
    assert not average.module.weight.requires_grad


def test_loss_falls_and_every_figure_is_written(tiny_depth: Make, quiet_train: Train) -> None:
    run = quiet_train(tiny_depth("training.steps=60", "optimizer.learning_rate=3e-3", "training.log_every=1"))
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    own = {"train/loss", "train/flow", "source/z0_std", "grad_norm", "lr", "memory", "pairs_per_second", "data_wait"}
    assert {"step", *own} == set(lines[1])
    assert set(lines[0]) - set(lines[1]) == {"source/mean", "source/std", "target/mean", "target/std"}
    assert 0.05 < lines[0]["memory"] <= lines[-1]["memory"] < 100
    first = np.mean([line["train/loss"] for line in lines[:5]])
    last = np.mean([line["train/loss"] for line in lines[-5:]])
    assert last < 0.6 * first
    assert (run.folder / "loss.png").stat().st_size > 1000
    assert list((run.folder / "tensorboard").iterdir())
    assert (run.folder / "samples" / "000060.png").is_file()


def test_scores_stand_beside_the_baseline(tiny_depth: Make, quiet_train: Train) -> None:
    run = quiet_train(tiny_depth("training.steps=2", "training.evaluate=8"))
    assert run.report is not None
    assert run.report.baseline_name == "constant map"
    assert 0.1 < run.report.baseline["foreground_abs_rel"] < 0.6
    assert run.report.figures["foreground_abs_rel"] > 0
    written = json.loads((run.folder / "evaluation.json").read_text())
    assert written["figures"] == run.report.figures
    assert (run.folder / "evaluation.png").is_file()


def test_non_finite_loss_stops_before_the_optimiser_moves(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    before = loop.Trainer._train_step

    def poisoned(self: loop.Trainer, data: object) -> object:
        if self.step == 3:
            with torch.no_grad():
                self.bridge.network.head.bias.fill_(math.nan)  # type: ignore[union-attr]
            kept.append({name: tensor.clone() for name, tensor in self.bridge.state_dict().items()})
            kept.append(self.bridge.state_dict())
        return before(self, data)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "_train_step", poisoned)
    with pytest.raises(BridgeflowError, match=r"no longer finite at step 4;.*000002"):
        quiet_train(tiny_depth("training.steps=6", "training.checkpoint_every=2"), output="run")
    for name, tensor in kept[0].items():
        assert torch.equal(tensor.nan_to_num(7.0), kept[1][name].nan_to_num(7.0)), name


def test_the_norm_of_the_gradient_is_told_as_it_was_before_clipping(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    before = optimizers.clip_gradient

    def looked_at(parameters: Iterable[nn.Parameter], most: float | None) -> torch.Tensor:
        own = list(parameters)
        norms.append(float(torch.cat([p.grad.flatten() for p in own if p.grad is not None]).norm()))
        return before(own, most)

    monkeypatch.setattr(optimizers, "clip_gradient", looked_at)
    for clip in ("null", "1e-3"):
        run = quiet_train(
            tiny_depth("training.steps=4", "training.log_every=2", "training.accumulation=2", f"training.clip={clip}")
        )
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["grad_norm"] for line in lines] == pytest.approx(
            [(norms[-4] + norms[-3]) / 2, (norms[-2] + norms[-1]) / 2], rel=1e-4
        )
    assert norms[0] == norms[4] > 1e-3


def test_unreadable_rows_are_counted_and_passed_over(quiet_train: Train, tmp_path: Path) -> None:
    from PIL import Image

    from bridgeflow.config import recipe as recipes

    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(photos / f"{number}.png")
    (photos / "broken.png").write_bytes(b"not a picture")
    recipe = recipes.load(
        "superres/folder",
        [
            "source.size=32", "target.size=32", "network.channels=[8,16]", "network.blocks=1", "training.steps=6",
            "training.batch_size=4", "training.evaluate=0", "training.precision=fp32", "data.held_out=0",
        ],
        data=f"folder:{photos}",
    )  # fmt: skip
    run = quiet_train(recipe)
    assert len(run.outcome.unreadable) == 1
    assert "broken.png" in run.outcome.unreadable[0]
    assert run.outcome.step == 6


def test_dry_run_tells_sizes_and_writes_nothing(tiny_depth: Make, tmp_path: Path) -> None:
    from bridgeflow.runtime.console import Progress

    facts = dry_run(tiny_depth(), "cpu", Progress(quiet=True), steps=2)
    assert facts["source_batch"] == [4, 3, 64, 64]
    assert facts["trainable_parameters"] == facts["network_parameters"] > 1000
    assert facts["seconds_per_step"] > 0
    assert facts["peak_memory_mb"] > 50
    assert facts["recipe"]["network"]["channels"] == [8, 16]
    assert list(tmp_path.iterdir()) == []
