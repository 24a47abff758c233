"""What the figures of a run are called, and that those of runs of before are still read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bridgeflow.bridge import Losses
from bridgeflow.checkpoints.checkpoint import open_checkpoint
from bridgeflow.config.recipe import Recipe
from bridgeflow.training.curve import curves, draw
from bridgeflow.training.metrics import Window, mean_losses, read_metrics
from bridgeflow.training.start import Run

Make = Callable[..., Recipe]
Train = Callable[..., Run]
FORMER = {
    "loss": "train/loss", "flow": "train/flow", "encoding": "train/encoding", "kl": "train/kl",
    "gradient_norm": "grad_norm", "learning_rate": "lr", "z0_std": "source/z0_std", "sigma": "source/sigma",
    "mu_batch_std": "source/mu_batch_std",
}  # fmt: skip


def losses(total: float, flow: float, norm: float, z0_std: float) -> Losses:
    terms = {"flow": torch.tensor(flow), "grad_norm": torch.tensor(norm)}
    return Losses(torch.tensor(total), terms, {"z0_std": torch.tensor(z0_std)})


def test_a_window_gives_means_of_steps_and_the_source_of_the_last() -> None:
    window = Window()
    window.add(losses(2.0, 1.0, 4.0, 0.5), seconds=1.5, waited=0.25)
    window.add(losses(4.0, 2.0, 8.0, 0.25), seconds=0.5, waited=0.25)
    assert window.figures(pairs=16) == {
        "train/loss": 3.0,
        "train/flow": 1.5,
        "grad_norm": 6.0,
        "source/z0_std": 0.25,
        "pairs_per_second": 16.0,
        "data_wait": 0.25,
    }
    both = mean_losses([losses(2.0, 1.0, 4.0, 0.5), losses(4.0, 2.0, 8.0, 0.25)])
    assert (float(both.total), float(both.terms["flow"]), float(both.health["z0_std"])) == (3.0, 1.5, 0.25)


def test_figures_of_before_are_read_by_the_names_that_they_have_now(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    before = {"step": 1, **{name: float(place) for place, name in enumerate(FORMER)}, "data_wait": 0.5}
    now = {"step": 2, "train/loss": 0.25, "val/loss": 0.75}
    path.write_bytes(f'{json.dumps(before)}\n\n{json.dumps(now)}\n"step"\n'.encode() + b'\xff\n{"step": 3, "tra')
    first, second = read_metrics(path)
    assert first == {
        "step": 1, **{name: float(place) for place, name in enumerate(FORMER.values())}, "data_wait": 0.5,
    }  # fmt: skip
    assert second == now


def test_the_curve_has_both_and_the_loss_on_held_out_pairs(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "loss": 4.0, "z0_std": 0.9}, {"step": 2, "train/loss": 2.0, "source/z0_std": 0.8}]
    rows += [{"step": 3, "train/loss": 1.0, "val/loss": 1.5, "grad_norm": 3.0}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert curves(read_metrics(path)) == {
        "loss": {"train/loss": [(1, 4.0), (2, 2.0), (3, 1.0)], "val/loss": [(3, 1.5)]},
        "source": {"source/z0_std": [(1, 0.9), (2, 0.8)]},
    }
    assert draw(read_metrics(path), tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not draw(read_metrics(path)[:1], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_run_of_before_goes_on_and_its_curve_is_whole(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_train(tiny_depth("training.steps=3"), output="run")
    path = Path("run/metrics.jsonl")
    names = {now: before for before, now in FORMER.items()}
    lines = [{names.get(name, name): value for name, value in json.loads(line).items()} for line in path.open()]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    drawn: list[list[dict[str, float]]] = []
    monkeypatch.setattr("bridgeflow.training.journal.draw", lambda rows, path: drawn.append(rows))
    checkpoint = open_checkpoint(Path("run"))
    quiet_train(checkpoint.recipe().changed(training={"steps": 5}), resume=checkpoint)
    assert [row["step"] for row in drawn[0]] == [1, 2, 3, 4, 5]
    assert all({"train/loss", "source/z0_std", "grad_norm", "lr"} <= set(row) for row in drawn[0])
    assert [("loss" in json.loads(line)) for line in path.open()] == [True, True, True, False, False]
