from collections.abc import Callable
from pathlib import Path

import pytest

from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.runtime.console import Progress
from bridgeflow.training.start import Run, train

TINY = (
    "data.size=48",
    "data.held_out=8",
    "data.workers=1",
    "network.channels=[8,16]",
    "network.blocks=1",
    "network.attention=[]",
    "training.batch_size=4",
    "training.precision=fp32",
    "training.evaluate=0",
    "training.sample_every=0",
    "training.samples=2",
    "training.validation=4",
    "training.log_every=1",
    "training.schedule.warmup=2",
    # Estimated on the meta device, which takes longer than the steps do.
    "training.check_memory=false",
)


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny_depth() -> Callable[..., Recipe]:
    """The depth recipe with a network that takes milliseconds."""

    def make(*overrides: str) -> Recipe:
        return recipes.load("depth/blocks", [*TINY, *overrides])

    return make


@pytest.fixture
def quiet_train() -> Callable[..., Run]:
    """`train` on the CPU without a word."""

    def run(recipe: Recipe, **options: object) -> Run:
        return train(recipe, device="cpu", console=Progress(quiet=True), **options)  # type: ignore[arg-type]

    return run
