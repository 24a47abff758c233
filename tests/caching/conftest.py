"""Small caches of pictures in a folder and of blocks scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgeflow import registry
from bridgeflow.caching.write import CacheOptions, Written, write_cache
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.runtime.console import Progress

Make = Callable[..., Written]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(tmp_path)
    registry.forget()
    yield
    registry.forget()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty pictures of 24x24 pixels, of which the 8th file of the alphabet is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(40):
        pixels = draw.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number:02d}.png")
    (folder / "p07.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture
def enlarging(photos: Path) -> Recipe:
    """Super-resolution of cuts of 16x16 pixels, drawn at random from the photos."""
    sizes = ["source.size=16", "target.size=16", "options.overlap=1", "network.channels=[8,8]", "network.blocks=1"]
    run = ["training.batch_size=4", "training.precision=fp32", "training.evaluate=0", "training.samples=2"]
    return recipes.load("superres/folder", [*sizes, *run], f"folder:{photos}")


@pytest.fixture
def make() -> Make:
    """Makes a cache without a word."""

    def write(recipe: Recipe, folder: Path, console: Progress | None = None, **options: object) -> Written:
        own = CacheOptions(**{"shard_rows": 8, "batch_size": 4, **options})  # type: ignore[arg-type]
        return write_cache(recipe, folder, own, "cpu", console or Progress(quiet=True))

    return write
