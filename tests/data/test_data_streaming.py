"""Streams of shards: order, processes, beginning in the middle, reading ahead, and a whole run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from streaming_tars import in_shards, numbers, own, shown, stream_of, write_tar

from bridgeflow.checkpoints.checkpoint import Checkpoint
from bridgeflow.cli.main import invoke
from bridgeflow.data.batches import batches
from bridgeflow.data.shards import ShardStream
from bridgeflow.data.streaming import read_ahead
from bridgeflow.data.webdataset import TarShards, TarStreams
from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.console import Progress
from bridgeflow.task import Task
from bridgeflow.training.start import _check_resumed

pytestmark = pytest.mark.usefixtures("lengths_of_its_own")


# -- order and processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seekable", [True, False])
def test_epoch_shuffles_shards_and_then_rows_within_the_buffer(tars: Path, seekable: bool) -> None:
    stream = in_shards(tars, seekable)
    epochs = [numbers(stream, epoch=epoch) for epoch in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(103))
    assert len({tuple(order) for order in epochs}) == 3
    assert numbers(in_shards(tars, not seekable), epoch=1) == epochs[1]
    assert numbers(in_shards(tars, seekable, buffer=0)) == list(range(103))
    # Shards change places, yet a row stays within eight of where its shard has it.
    firsts = [min(order.index(n) for n in range(20)) for order in epochs]
    assert len(set(firsts)) > 1
    places = sorted(epochs[0].index(n) for n in range(20))
    assert places[-1] - places[0] <= 19 + 2 * 8


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_processes_share_an_epoch_without_overlap_or_loss(tars: Path, seekable: bool, world: int) -> None:
    stream = in_shards(tars, seekable)
    taken: list[int] = []
    for rank in range(world):
        entries = stream.own_rows(0, 5, rank, world)
        for entry in entries:
            if entry.epoch:
                break
            taken.append(stream.load(entry.token)["number"])  # type: ignore[index]
    assert sorted(taken) == list(range(103))


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_process_goes_on_in_any_epoch_as_if_never_stopped(tars: Path, seekable: bool, world: int) -> None:
    for rank in range(world):
        whole = own(in_shards(tars, seekable), 260, rank=rank, world=world)
        for taken in (1, 7, 8, 26, 52, 103, 180, 241):
            assert own(in_shards(tars, seekable), 260 - taken, taken * world, rank, world) == whole[taken:]


class Counting(TarShards):
    """Counts what is loaded, and which tables of contents are read."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.loaded = 0
        self.opened: set[int] = set()

    def _table(self, shard: int) -> list[Any]:
        self.opened.add(shard)
        return super()._table(shard)

    def load(self, token: Any) -> Any:
        self.loaded += 1
        return super().load(token)


def test_resuming_neither_opens_shards_that_are_done_nor_reads_what_others_take(tars: Path) -> None:
    names = [str(path) for path in sorted(tars.glob("*.tar"))]
    whole = own(ShardStream(Counting(names), (), "", "", 8), 103)
    shards = Counting(names)
    assert own(ShardStream(shards, (), "", "", 8), 5, 98) == whole[98:]
    assert shards.loaded == 5
    assert len(shards.opened) <= 2
    shards = Counting(names)
    assert len(own(ShardStream(shards, (), "", "", 8), 20, 0, 1, 3)) == 20
    assert shards.loaded == 20


def test_stream_that_cannot_be_sought_in_skips_shards_whose_length_it_has_met(tars: Path) -> None:
    names = [str(path) for path in sorted(tars.glob("*.tar"))]
    whole = own(ShardStream(TarStreams(names), (), "", "", 8), 103)
    kept = TarStreams(names)
    assert [kept.count(shard) for shard in range(6)].count(None) <= 1
    read: list[int] = []

    class Watched(TarStreams):
        def read(self, shard: int, start: int) -> Iterator[Any]:
            read.append(shard)
            return super().read(shard, start)

    assert own(ShardStream(Watched(names), (), "", "", 8), 4, 98) == whole[98:102]
    assert len(read) <= 2


def test_length_cut_short_by_a_kill_is_counted_again(tars: Path) -> None:
    stream = in_shards(tars, True)
    whole = numbers(stream)
    file = stream.shards.lengths.file  # type: ignore[attr-defined]
    file.write_text(file.read_text()[:-7])
    assert numbers(in_shards(tars, True), 60) == whole[60:]


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 3), (2, 4)])
def test_another_number_of_processes_repeats_no_more_than_the_buffers(tars: Path, before: int, after: int) -> None:
    stream = in_shards(tars, True, buffer=4)
    steps = 64 // before
    done = [n for rank in range(before) for n in own(stream, steps, 0, rank, before)]
    left = (103 - 64) // after
    rest = [n for rank in range(after) for n in own(in_shards(tars, True, buffer=4), left, 64, rank, after)]
    assert len(set(done)) == len(done) == 64
    assert len(set(done) & set(rest)) <= 4 * max(before, after)


# -- batches -------------------------------------------------------------------------------------------------


def test_batches_are_the_same_however_many_workers_and_wherever_begun(tars: Path, squares: Task) -> None:
    write_tar(tars / "006.tar", [("0200.json", b"{junk"), ("0201.json", b'{"number": -1}')])
    fresh = shown(batches(stream_of(tars, shuffle_buffer=16), squares, {}, 6, 3), 24)
    assert sum(len(batch[2]) for batch in fresh) >= 2
    assert {len(batch[0]) for batch in fresh} == {6}
    for workers in (1, 2):
        made = batches(stream_of(tars, shuffle_buffer=16), squares, {}, 6, 3, workers=workers)
        assert shown(made, 24) == fresh
        made.close()  # type: ignore[attr-defined]
    for first in (1, 13):
        made = batches(stream_of(tars, shuffle_buffer=16), squares, {}, 6, 3, position=6 * first)
        assert shown(made, 24 - first) == fresh[first:]


def test_processes_take_disjoint_batches(tars: Path, squares: Task) -> None:
    each = [
        [n for batch in shown(batches(in_shards(tars, True), squares, {}, 5, 3, rank=r, world=4), 5) for n in batch[0]]
        for r in range(4)
    ]
    assert max(Counter(n for own in each for n in own).values()) == 1


def test_reading_ahead_keeps_the_order_stops_at_its_depth_and_hands_errors_on() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            if n == 7:
                raise BridgeflowError("seven.")
            begun.append(n)
            yield n

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    time.sleep(0.1)
    assert len(begun) <= 4
    assert list(islice(ahead, 6)) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(BridgeflowError, match="seven"):
        next(ahead)
    before = threading.active_count()
    endless = read_ahead(iter(range(1 << 40)), 2)
    next(endless)
    endless.close()
    time.sleep(0.5)
    assert threading.active_count() <= before


# -- a whole run ---------------------------------------------------------------------------------------------

STEPS = 30
RUN = (
    "network.channels=[8,16]",
    "network.blocks=1",
    "network.attention=[]",
    "source.size=32",
    "target.size=32",
    "training.batch_size=4",
    "training.precision=fp32",
    "training.evaluate=0",
    "training.sample_every=0",
    "training.samples=2",
    "training.log_every=1",
    "training.checkpoint_every=8",
    f"training.steps={STEPS}",
    "data.held_out_rows=4",
    "data.shuffle_buffer=6",
)


def words(scenes: Path, folder: Path) -> list[str]:
    data = f"webdataset:{scenes}/*.tar"
    return ["train", "--task", "depth", "--data", data, "--output", str(folder), "--device", "cpu", *RUN]


def final(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"{STEPS:06d}" / "model.safetensors")


def test_run_killed_on_a_stream_ends_with_the_weights_of_the_whole_one(scenes: Path, tmp_path: Path) -> None:
    assert invoke(words(scenes, tmp_path / "whole")) == 0
    part = tmp_path / "part"
    kept = part / "checkpoints" / "000008" / "meta.json"
    with subprocess.Popen(
        [sys.executable, "-m", "bridgeflow", *words(scenes, part)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        until = time.monotonic() + 60
        while not kept.exists() and time.monotonic() < until:
            time.sleep(0.002)
        os.kill(running.pid, signal.SIGKILL)
    assert kept.exists()
    assert not (part / "checkpoints" / f"{STEPS:06d}").exists()
    assert invoke(["train", "--task", "depth", "--resume", "--output", str(part), "--device", "cpu"]) == 0
    one, other = final(tmp_path / "whole"), final(part)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_number_of_processes_is_told(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = in_shards(tars, True)
    checkpoint = Checkpoint(tars, {"processes": 4, "data": {"fingerprint": stream.fingerprint}})
    _check_resumed(checkpoint, stream, 4, Progress())
    assert capsys.readouterr().err == ""
    _check_resumed(checkpoint, stream, 2, Progress())
    assert "2 processes go on where 4 stopped" in capsys.readouterr().err
