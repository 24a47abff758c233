"""Making a cache: what lands in it, going on after a stop, several processes, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bridgeflow.assembly import assemble
from bridgeflow.caching.dataset import Cache
from bridgeflow.caching.index import read_index
from bridgeflow.caching.rows import CachedRows
from bridgeflow.caching.write import CacheOptions, Written, write_cache
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.pairs import read_pair
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.runtime.console import Progress
from bridgeflow.runtime.randomness import seed_of

Make = Callable[..., Written]


class Stop(Progress):
    """Stops the process's work once so many rows are encoded, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        super().__init__(quiet=True)
        self.after = after

    def __call__(self, done: int, total: int, what: str, unit: str = "", detail: str = "") -> None:
        if what.startswith("encoding") and done >= self.after:
            raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_holds_what_the_codecs_give_for_every_row(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    written = make(enlarging, tmp_path / "cache", variants=3)
    rows = Cache(path=str(tmp_path / "cache")).open("train")
    originals = enlarging.data.open("train")
    assert isinstance(rows, CachedRows)
    assert len(rows) == len(originals) - 1 == 37
    assert (written.made, written.found) == (6, 0)
    assembly = assemble(enlarging)
    raw = [index for index in range(len(originals)) if originals[index]["image"].name != "p07.png"]
    for epoch in (0, 1, 2, 3):
        source, target = rows.gather([20, 3, 36], [epoch] * 3)
        for place, index in enumerate((20, 3, 36)):
            assert rows[index] == originals[raw[index]]
            items = read_pair(assembly.task, rows[index], {}, 0, seed_of("cache", epoch % 3, raw[index]))
            for modality, item, latent in zip((assembly.source, assembly.target), items, (source, target), strict=True):
                assert torch.equal(modality.encode(modality.collate([item])).mean[0], latent.mean[place])
    assert not torch.equal(rows.gather([3], [0])[1].mean, rows.gather([3], [1])[1].mean)


def test_a_row_that_cannot_be_read_is_counted_and_named(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    index = make(enlarging, tmp_path / "cache").index
    (sentence,) = index.unreadable()
    assert "p07.png" in sentence
    (shard,) = [shard for own in index.shards.values() for shard in own if shard.skipped]
    assert shard.read - shard.rows == 1
    assert json.loads((tmp_path / "cache" / "index.json").read_text())["complete"] is True


def test_a_stopped_one_goes_on_and_ends_the_same(
    enlarging: Recipe, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(enlarging, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        make(enlarging, tmp_path / "cache", Stop(after=16))
    assert not read_index(tmp_path / "cache", whole=False).complete
    with pytest.raises(BridgeflowError, match="not finished: give the same bridgeflow cache command once more"):
        Cache(path=str(tmp_path / "cache")).open("train")
    # What a kill leaves: half a file under a temporary name, and a whole one that is not noted yet.
    (tmp_path / "cache/train/.000002.safetensors.part-1").write_bytes(b"half")
    (tmp_path / "cache/train/000002.safetensors").write_bytes(b"another")
    first = (tmp_path / "cache/train/000000.safetensors").stat().st_mtime_ns
    written = make(enlarging, tmp_path / "cache", Progress())
    assert (written.found, written.made) == (2, 4)
    assert "going on: 2 shards are in" in capsys.readouterr().err
    assert (tmp_path / "cache/train/000000.safetensors").stat().st_mtime_ns == first
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")
    again = make(enlarging, tmp_path / "cache")
    assert (again.found, again.made) == (6, 0)


def _one_of_two(rank: int, port: int, recipe: Recipe, folder: Path) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update(
        {name: str(value) for name, value in own.items()}, MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="1"
    )
    write_cache(recipe, folder, CacheOptions(shard_rows=8, batch_size=4), "cpu", Progress(quiet=True))
    torch.distributed.destroy_process_group()


def test_two_processes_write_the_same_bytes_as_one(
    enlarging: Recipe, make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fitted = enlarging.changed(
        source={"codec": {"name": "pca", "patch": 4, "components": 8}},
        target={"codec": {"name": "pca", "patch": 4, "components": 8}},
        network={"channels": [8, 8], "patch": 1},
    )
    make(fitted, tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=_one_of_two, args=(rank, port, fitted, tmp_path / "two")) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0], capfd.readouterr().err
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert (tmp_path / "one/codecs/target/state.safetensors").is_file()


def test_another_cache_is_not_overwritten(enlarging: Recipe, make: Make, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    make(enlarging, folder)
    before = contents(folder)
    other = enlarging.changed(target={"codec": {"name": "pca", "patch": 4}}, source={"codec": {"name": "pca"}})
    with pytest.raises(UsageError, match=r"target\.codec\.name is 'pca' here and was 'pixels'"):
        make(other, folder)
    with pytest.raises(UsageError, match="dtype is 'float16' here and was 'float32'"):
        make(enlarging, folder, dtype="float16")
    with pytest.raises(UsageError, match=r"options\.overlap is 2 here and was 1"):
        make(enlarging.changed(options={"overlap": 2}), folder)
    with pytest.raises(UsageError, match="names a cache, which is encoded already"):
        make(enlarging.changed(data={"name": "cache", "path": str(folder)}), tmp_path / "more")
    Image.new("RGB", (24, 24)).save(photos / "p40.png")
    with pytest.raises(UsageError, match=r"the train data are 39 rows in .* here and were 38 rows.*another --output"):
        make(enlarging, folder)
    assert contents(folder) == before
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/thesis.pdf").write_text("mine")
    with pytest.raises(UsageError, match=r"holds 'thesis\.pdf', which is no cache's"):
        make(enlarging, tmp_path / "strange")


def test_half_precision_takes_half_the_room_and_its_overflow_is_named(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    for name in ("image", "depth"):
        (folder / name).mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (16, 16), (number * 40, 0, 0)).save(folder / f"image/s{number}.png")
        Image.fromarray(np.full((16, 16), 1000 + 100 * number, np.uint16)).save(folder / f"depth/s{number}.png")
    recipe = recipes.load("depth/folder", ["source.size=16", "target.size=16"], f"folder:{folder}")
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        index = make(recipe, tmp_path / dtype, dtype=dtype).index
        sizes[dtype] = index.shards["train"][0].bytes
        rows = Cache(path=str(tmp_path / dtype)).open("train")
        assert isinstance(rows, CachedRows)
        assert rows.gather([0], [0])[0].mean.dtype == getattr(torch, dtype)
    assert sizes["bfloat16"] < 0.65 * sizes["float32"]
    fine = Cache(path=str(tmp_path / "float32")).open("train").gather([0, 1, 2], [0] * 3)[1].mean  # type: ignore[union-attr]
    coarse = Cache(path=str(tmp_path / "bfloat16")).open("train").gather([0, 1, 2], [0] * 3)[1].mean  # type: ignore[union-attr]
    assert torch.equal(fine.bfloat16(), coarse)
