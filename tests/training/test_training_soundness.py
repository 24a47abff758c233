"""Numbers that are not finite stop a training: at once on the CPU, elsewhere a step later, so that nobody waits."""

import math
from pathlib import Path

import pytest
import torch

from bridgeflow import recipe as recipes
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent
from bridgeflow.training.soundness import Soundness

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
    watched.settle()
    watched.note("loss", 7, BAD)
    with pytest.raises(BridgeflowError, match="at step 8"):
        watched.settle()


def test_data_that_are_not_finite_are_named(watched: Soundness) -> None:
    sound, unsound = Latent(torch.zeros(2, 3)), Latent(torch.tensor([[0.0, math.inf, 0.0]]))
    with pytest.raises(BridgeflowError, match=r"target .depth. of a row holds numbers that are not finite, at step 1"):
        watched.note("loss", 0, BAD, sound, unsound)
