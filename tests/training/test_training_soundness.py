"""Numbers that are not finite stop a training: at once on the CPU, elsewhere a step later, so that nobody waits."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge, Losses
from bridgeflow.checkpoints import tensor_file
from bridgeflow.checkpoints.checkpoint import list_checkpoints, open_checkpoint
from bridgeflow.checkpoints.runs import find_resumable
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.pairs import Batch
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Latent
from bridgeflow.training import loop
from bridgeflow.training.soundness import Soundness, check_start
from bridgeflow.training.start import Run

Make = Callable[..., Recipe]
Train = Callable[..., Run]
BAD = torch.tensor(math.nan)
GOOD = torch.tensor(1.0)


@pytest.fixture
def watched(tmp_path: Path) -> Soundness:
    return Soundness(recipes.load("depth/blocks"), tmp_path, torch.device("cpu"))


def test_the_cpu_is_asked_at_once(watched: Soundness) -> None:
    watched.note("loss", 6, GOOD)
    with pytest.raises(BridgeflowError, match="the gradient is no longer finite at step 7; nothing was saved yet"):
        watched.note("gradient", 6, BAD)


def test_elsewhere_a_step_is_looked_at_when_the_next_is_under_way(watched: Soundness) -> None:
    watched.at_once = False
    watched.note("loss", 6, BAD)
    watched.note("gradient", 6, GOOD)
    with pytest.raises(BridgeflowError, match="the loss is no longer finite at step 7"):
        watched.note("loss", 7, GOOD)


def test_nothing_unsound_is_left_unseen_before_something_is_kept(watched: Soundness) -> None:
    watched.at_once = False
    watched.note("loss", 6, GOOD)
    watched.check()
    watched.note("loss", 7, BAD)
    with pytest.raises(BridgeflowError, match="at step 8"):
        watched.check()


def test_data_that_are_not_finite_are_named(watched: Soundness) -> None:
    sound, unsound = Latent(torch.zeros(2, 3)), Latent(torch.tensor([[0.0, math.inf, 0.0]]))
    with pytest.raises(BridgeflowError, match=r"target .depth. of a row holds numbers that are not finite, at step 1"):
        watched.note("loss", 0, BAD, sound, unsound)


# -- whole trainings -------------------------------------------------------------------------------------

EVERY_STEP = ("training.steps=4", "training.clip=null", "training.checkpoint_every=1", "training.keep=1")


def spoil_gradient(monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    """One number of the gradient of step 2."""
    before = loop.Trainer._backward

    def spoilt(self: loop.Trainer, *latents: Latent) -> Losses:
        losses = before(self, *latents)
        if self.step == 1:
            gradient = self.bridge.get_parameter("network.head.weight").grad
            assert gradient is not None
            gradient.view(-1)[0] = number
        return losses

    monkeypatch.setattr(loop.Trainer, "_backward", spoilt)


def spoil_state(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """One number that the optimiser leaves behind at step 2, whose loss and gradient are finite."""
    before = loop.Trainer._train_step

    def spoilt(self: loop.Trainer, data: Iterator[Batch]) -> tuple[Losses, float]:
        result = before(self, data)
        if self.step == 1:
            weight = self.bridge.get_parameter("network.head.bias")
            assert self.average is not None
            tensors = {
                "model": weight,
                "ema": self.average.module.get_parameter("network.head.bias"),
                "optimizer": self.optimizer.state[weight]["exp_avg_sq"],
            }
            tensors[where].data[0] = math.inf
        return result

    monkeypatch.setattr(loop.Trainer, "_train_step", spoilt)


def assert_goes_on(folder: Path, step: int, quiet_train: Callable[..., Run]) -> None:
    """The only checkpoint is of that step and whole, and the run goes on from it to its end."""
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"{step:06d}"]
    checkpoint = find_resumable("depth", str(folder))
    assert (checkpoint.step, checkpoint.passed_over) == (step, ())
    rest = quiet_train(checkpoint.recipe(), resume=checkpoint)
    assert rest.outcome.step == 4
    assert open_checkpoint(folder, thorough=True).step == 4


@pytest.mark.parametrize(("number", "at_once"), [(math.inf, True), (math.nan, True), (-math.inf, False)])
def test_a_gradient_stops_a_training_that_clips_none(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch, number: float, at_once: bool
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    with monkeypatch.context() as patched:
        spoil_gradient(patched, number)
        if not at_once:
            # As on a device that is not to be waited for: what was noted is looked at before the step is saved.
            noted = loop.Soundness.__init__

            def elsewhere(self: Soundness, recipe: Recipe, folder: Path, device: torch.device) -> None:
                noted(self, recipe, folder, device)
                self.at_once = False

            patched.setattr(loop.Soundness, "__init__", elsewhere)
        moved = torch.optim.AdamW.step
        patched.setattr(torch.optim.AdamW, "step", lambda self, *given: (seen.append({}), moved(self, *given))[1])
        words = "the gradient is no longer finite at step 2; the weights of step 1 are safe in run/checkpoints/000001: "
        with pytest.raises(BridgeflowError, match=rf"^{words}lower"):
            quiet_train(tiny_depth(*EVERY_STEP), output="run")
    assert len(seen) == (1 if at_once else 2)
    assert_goes_on(Path("run"), 1, quiet_train)


@pytest.mark.parametrize("where", ["model", "ema", "optimizer"])
def test_what_is_not_finite_is_no_checkpoint_and_costs_none(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with monkeypatch.context() as patched:
        spoil_state(patched, where)
        name = "network.head.bias" + (":exp_avg_sq" if where == "optimizer" else "")
        with pytest.raises(
            BridgeflowError,
            match=rf"^the tensor '{name}' of {where}.safetensors is no longer finite at step 2; the weights of step 1 "
            "are safe in run/checkpoints/000001: lower optimizer.learning_rate",
        ):
            quiet_train(tiny_depth(*EVERY_STEP), output="run")
    assert_goes_on(Path("run"), 1, quiet_train)


def test_a_last_step_that_is_not_finite_is_not_saved_either(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_state(monkeypatch, "ema")
    with pytest.raises(BridgeflowError, match=r"ema.safetensors is no longer finite at step 2; nothing was saved yet:"):
        quiet_train(tiny_depth("training.steps=2"), output="run")
    assert list(Path("run/checkpoints").iterdir()) == []


@pytest.mark.parametrize("where", ["model", "ema", "optimizer"])
def test_a_checkpoint_from_before_that_is_not_finite_is_passed_over(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with monkeypatch.context() as patched:
        spoil_state(patched, where)
        patched.setattr(tensor_file, "is_finite", lambda tensor: True)
        quiet_train(tiny_depth("training.steps=2", "training.checkpoint_every=1", "training.keep=2"), output="run")
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["000001", "000002"]
    checkpoint = find_resumable("depth", "run")
    assert checkpoint.step == 1
    (told,) = checkpoint.passed_over
    assert f"of {'trainer/' * (where == 'optimizer')}{where}.safetensors holds numbers that are not finite" in told
    watched = Soundness(checkpoint.recipe(), Path("run"), torch.device("cpu"))
    with pytest.raises(BridgeflowError, match="the weights of step 1 are safe in run/checkpoints/000001"):
        watched.note("loss", 2, BAD)
    shutil.rmtree("run/checkpoints/000001")
    with pytest.raises(BridgeflowError, match=r"000002' is damaged \(the tensor 'network.head.bias.*not finite\): use"):
        find_resumable("depth", "run")
    with pytest.raises(BridgeflowError, match="step 3; no checkpoint in run/checkpoints is whole: lower"):
        watched.note("loss", 2, BAD)


def test_what_is_not_finite_before_the_first_step_is_named(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("causal", torch.full((2, 2), -math.inf).triu(1), persistent=False)
    check_start(module)
    module.register_buffer("looked_at", torch.full((2, 2), -math.inf).triu(1))
    with pytest.raises(UsageError, match=r"^'looked_at' .* before the first step: .* with persistent=False\.$"):
        check_start(module)
    before = Assembly.build_bridge

    def unfilled(self: Assembly) -> Bridge:
        bridge = before(self)
        bridge.get_parameter("network.head.bias").data.fill_(math.nan)
        return bridge

    monkeypatch.setattr(Assembly, "build_bridge", unfilled)
    with pytest.raises(UsageError, match=r"'network\.head\.bias' holds numbers that are not finite before the first"):
        quiet_train(tiny_depth(*EVERY_STEP), output="run")
