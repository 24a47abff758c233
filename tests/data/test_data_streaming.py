"""Streams of shards: order, processes, beginning in the middle, reading ahead, and what is broken."""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bridgeflow import recipe as recipes
from bridgeflow.assembly import assemble
from bridgeflow.cli.main import invoke
from bridgeflow.data.batches import Batch, batches
from bridgeflow.data.check import check_rows
from bridgeflow.data.hub import HubDataset
from bridgeflow.data.hub_shards import IterableParts, ParquetFiles
from bridgeflow.data.rows import Stream
from bridgeflow.data.shards import ShardStream
from bridgeflow.data.streaming import read_ahead
from bridgeflow.data.webdataset import TarShards, TarStreams, WebDataset, expanded
from bridgeflow.errors import BridgeflowError
from bridgeflow.task import Task
from bridgeflow_plugins.blocks import render_scene

Files = Sequence[tuple[str, bytes]]
Shown = list[tuple[list[int], list[int], list[str]]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path / "kept"))


def write_tar(path: Path, files: Files, kind: Any = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def numbered(first: int, count: int) -> Files:
    """Samples whose number is a field of their JSON."""
    return [(f"{n:04d}.json", json.dumps({"number": n}).encode()) for n in range(first, first + count)]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Samples 0 to 102 in six shards of unequal lengths."""
    first = 0
    for shard, count in enumerate((20, 11, 25, 17, 5, 25)):
        write_tar(tmp_path / "shards" / f"{shard:03d}.tar", numbered(first, count))
        first += count
    return tmp_path / "shards"


def stream_of(shards: Any, split: Any = "train", **settings: Any) -> ShardStream:
    stream = WebDataset(shards=shards if isinstance(shards, list) else str(shards), **settings).open(split)
    assert isinstance(stream, ShardStream)
    assert isinstance(stream, Stream)
    return stream


def in_shards(folder: Path, seekable: bool, buffer: int = 8) -> ShardStream:
    """All samples of a folder's shards, sought in or only read from the first on."""
    names = [str(path) for path in sorted(folder.glob("*.tar"))]
    shards = TarShards(names) if seekable else TarStreams(names)
    return ShardStream(shards, ("number",), "numbers", "0", buffer)


def numbers(stream: Stream, position: int = 0, epoch: int = 0) -> list[int]:
    return [row["number"] for row in stream.rows_from(position, epoch)]


def own(stream: ShardStream, count: int, position: int = 0, rank: int = 0, world: int = 1) -> list[int]:
    """The next numbers of a process."""
    entries = islice(stream.own_rows(position, 5, rank, world), count)
    return [stream.load(entry.token)["number"] for entry in entries]  # type: ignore[index]


def shown(made: Iterator[Batch], count: int) -> Shown:
    return [
        (batch.source["number"].tolist(), batch.target["number"].tolist(), batch.failures)
        for batch in islice(made, count)
    ]


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


# -- what a sample holds -------------------------------------------------------------------------------------


def scene(number: int) -> Files:
    """A scene of the blocks world as the members of a sample."""
    row = render_scene(0, "train", number, 32)
    picture, depth, millimetres = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(row["image"]).save(picture, "PNG")
    np.save(depth, row["depth"])
    Image.fromarray((row["depth"] * 1000).astype(np.uint16)).save(millimetres, "PNG")
    deep = (f"{number:04d}.depth.npy", depth.getvalue())
    return [
        (f"{number:04d}.png", picture.getvalue()),
        deep if number % 2 else (f"{number:04d}.depth.png", millimetres.getvalue()),
        (f"{number:04d}.txt", row["text"].encode()),
        (f"{number:04d}.json", json.dumps({"number": number}).encode()),
    ]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 scenes in four shards."""
    folder = tmp_path_factory.mktemp("scenes")
    for shard in range(4):
        files = [file for number in range(10 * shard, 10 * shard + 10) for file in scene(number)]
        write_tar(folder / f"{shard:03d}.tar", files)
    return folder


@pytest.mark.parametrize("task", ["caption", "depth", "superres", "t2i"])
def test_every_task_reads_shards(scenes: Path, task: str) -> None:
    resolved = recipes.load(f"{task}/folder", ["data.held_out_rows=4"], f"webdataset:{scenes}/{{000..003}}.tar")
    stream = resolved.data.open("train")
    assert set(stream.columns) == {"image", "depth", "text", "number"}
    row = next(iter(stream.rows_from(0, 0)))
    truth = render_scene(0, "train", row["number"], 32)
    assert row["text"] == truth["text"]
    if task == "superres":
        return
    checked = check_rows(stream, assemble(resolved).task, {})
    assert (checked.rows, checked.broken) == (36, [])
    read = assemble(resolved).task.pair(row, np.random.default_rng(0))
    items = {"depth": (truth["image"], truth["depth"]), "caption": (truth["image"], truth["text"])}
    if task == "depth":
        np.testing.assert_array_equal(np.asarray(read[0]), items[task][0])
        np.testing.assert_allclose(read[1], items[task][1], atol=2e-3)
    if task == "caption":
        assert read[1] == truth["text"]


def test_endings_tell_columns_and_long_names_are_read(tmp_path: Path) -> None:
    stem = "folder/" + "long" * 60
    for number, kind in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        files = [
            (f"{stem}.jpg", b"picture"),
            (f"{stem}.caption", "\ufeffein Würfel\n".encode()),
            (f"{stem}.seg.png", b"mask"),
            (f"{stem}.exr", b"far"),
            (f"{stem}.cls", b"3"),
            (f"{stem}.json", b'{"text": "not this", "width": 7}'),
            ("folder/.hidden.jpg", b""),
        ]
        tar = write_tar(tmp_path / f"{number}.tar", files, kind)
        (row,) = stream_of(tar, "held_out").rows_from(0, 0)
        assert {name: value["bytes"] if isinstance(value, dict) else value for name, value in row.items()} == {
            "image": b"picture",
            "text": "ein Würfel",
            "seg": b"mask",
            "depth": b"far",
            "cls": "3",
            "width": 7,
        }
        assert row["image"]["path"] == f"{tar}/{stem}.jpg"


def test_rows_held_out_are_never_trained_on(tars: Path) -> None:
    train, apart = (sorted(numbers(stream_of(tars, split, held_out_rows=7))) for split in ("train", "held_out"))
    assert (apart, train) == (list(range(7)), list(range(7, 103)))
    both = [sorted(numbers(stream_of(tars, split, held_out=f"{tars}/00[45].tar"))) for split in ("train", "held_out")]
    assert both == [list(range(73)), list(range(73, 103))]
    one = [numbers(stream_of(tars / "002.tar", split, shuffle_buffer=0)) for split in ("train", "held_out")]
    assert one == [list(range(33, 56)), [31, 32]]
    more = [sorted(numbers(stream_of(tars, split, held_out_rows=999))) for split in ("train", "held_out")]
    assert more == [list(range(20, 103)), list(range(20))]


# -- what is broken ------------------------------------------------------------------------------------------


def test_broken_members_and_shards_are_named_and_the_rest_is_trained_on(tars: Path, squares: Task) -> None:
    write_tar(
        tars / "010.tar", [("a.json", b"{junk"), ("b.json", b"[1]"), ("c.txt", b"\xff\xfe\xfa"), *numbered(300, 2)]
    )
    whole = write_tar(tars / "011.tar", numbered(400, 9)).read_bytes()
    (tars / "011.tar").write_bytes(whole[: 5 * 1024 + 520])
    (tars / "012.tar").write_bytes(b"<html>" * 200)
    (tars / "013.tar").write_bytes(b"")
    (tars / "015.tar").write_bytes(whole[:2048])
    (tars / "014.tar").write_bytes(whole[:1024] + bytes(range(256)) * 4 + whole[2048:])
    stream = stream_of(tars, held_out_rows=1, shuffle_buffer=0)
    checked = check_rows(stream, squares, {})
    assert checked.broken == [
        f'{tars}/010.tar/a.json is not JSON: an object such as {{"text": ...}} is expected.',
        f'{tars}/010.tar/b.json is not a JSON object: one such as {{"text": ...}} is expected.',
        f"{tars}/010.tar/c.txt is not text in UTF-8: save it as such.",
        f"{tars}/011.tar is cut short in its member '0405.json': fetch it anew; what follows is lost.",
        f"{tars}/012.tar is no tar at byte 0: fetch it anew; what follows is lost.",
        f"{tars}/013.tar is empty: fetch it anew; what follows is lost.",
        f"{tars}/014.tar is no tar at byte 1,024: fetch it anew; what follows is lost.",
        f"{tars}/015.tar is cut short after its member '0401.json': fetch it anew; what follows is lost.",
    ]
    assert checked.rows == 102 + 5 + 6 + 1 + 1 + 2 + 3
    seen = {n for batch in shown(batches(stream, squares, {}, 4, 0), 40) for n in batch[0]}
    assert seen == {*range(1, 103), 300, 301, *range(400, 405)}


def test_shard_that_goes_while_it_is_read_breaks_its_rows_only(tars: Path, squares: Task) -> None:
    made = batches(stream_of(tars, shuffle_buffer=0, held_out_rows=1), squares, {}, 4, 0)
    next(made)
    (tars / "002.tar").unlink()
    told = [sentence for batch in shown(made, 24) for sentence in batch[2]]
    assert told == [f"{tars}/002.tar/{n:04d}.json cannot be read (No such file or directory)." for n in range(31, 56)]


def refusal(**settings: Any) -> str:
    with pytest.raises(BridgeflowError) as caught:
        WebDataset(**settings).open("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_to_read_gives_one_sentence(tars: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke(["train", "--task", "depth", "--data", "webdataset:nothing*"]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "no tar file matches 'nothing*': set data.shards to files" in error
    for path in tars.glob("*.tar"):
        path.write_bytes(path.read_bytes()[:520])
    told = refusal(shards=str(tars))
    assert told.startswith("no sample in 6 tar files such as ")
    assert "000.tar is cut short in its member '0000.json'" in told
    assert "is held out too" in refusal(shards=str(tars), held_out=str(tars / "*.tar"))
    assert "mean nothing" in refusal(shards="{0-9}.tar")
    assert "count" in refusal(shards="{0..99999999}.tar")


def test_all_rows_broken_gives_one_sentence(tmp_path: Path, squares: Task) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"{shard}.tar", [(f"{n}.json", b'{"number": -1}') for n in range(4)])
    with pytest.raises(BridgeflowError, match=r"^11 rows one after another cannot be read, the last because: row"):
        next(batches(stream_of(tmp_path, held_out_rows=1), squares, {}, 2, 0))


def test_braces_count_and_list() -> None:
    assert expanded("a{08..10}.tar") == ["a08.tar", "a09.tar", "a10.tar"]
    assert expanded("{a,b}{0..1}") == ["a0", "a1", "b0", "b1"]


# -- far away ------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tars: Path) -> Iterator[str]:
    """The address of the shards."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tars)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_addresses_and_packed_tars_give_the_same_rows(tars: Path, served: str, squares: Task) -> None:
    near = own(stream_of(tars, held_out_rows=2), 150)
    assert own(stream_of(served + "/{000..005}.tar", held_out_rows=2), 150) == near
    (tars / "packed").mkdir()
    for path in tars.glob("*.tar"):
        (tars / "packed" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert own(stream_of(tars / "packed", held_out_rows=2), 150) == near
    file = tars / "packed" / "003.tar.gz"
    file.write_bytes(file.read_bytes()[:-40])
    checked = check_rows(stream_of(tars / "packed"), squares, {})
    assert len(checked.broken) == 1
    assert "003.tar.gz is cut short or damaged" in checked.broken[0]


def test_address_that_fails_stops_the_run_for_its_rows_are_not_lost(served: str, squares: Task) -> None:
    made = batches(stream_of([f"{served}/000.tar", f"{served}/gone.tar"], held_out_rows=1), squares, {}, 4, 0)
    with pytest.raises(BridgeflowError, match=r"gone.tar broke off \(HTTPError: .*go on with --resume"):
        shown(made, 20)


# -- the datasets library ------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Numbers 0 to 59 in three files of four row groups."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "set"
    folder.mkdir()
    for file in range(3):
        table = pyarrow.table({"number": list(range(20 * file, 20 * file + 20))})
        pyarrow.parquet.write_table(table, folder / f"train-{file}.parquet", row_group_size=5, compression="NONE")
    return folder


def hub_stream(path: Path, split: Any = "train", **settings: Any) -> ShardStream:
    stream = HubDataset(path=str(path), streaming=True, shuffle_buffer=4, **settings).open(split)
    assert isinstance(stream, ShardStream)
    return stream


@pytest.mark.parametrize("world", [1, 2, 5])
def test_parquet_is_shared_and_begun_anywhere(parquet: Path, world: int) -> None:
    stream = hub_stream(parquet, held_out_rows=6)
    assert isinstance(stream.shards.whole, ParquetFiles)  # type: ignore[attr-defined]
    assert sorted(numbers(hub_stream(parquet, "held_out", held_out_rows=6))) == list(range(6))
    each = [own(stream, 120 // world, 0, rank, world) for rank in range(world)]
    for rank, whole in enumerate(each):
        assert own(hub_stream(parquet, held_out_rows=6), 9, 7 * world, rank, world) == whole[7:16]
    epoch = numbers(stream, epoch=3)
    assert sorted(epoch) == list(range(6, 60))
    assert numbers(stream, 31, epoch=3) == epoch[31:]


def test_damaged_parquet_is_named_and_resumed_over(parquet: Path, squares: Task) -> None:
    import pyarrow.parquet

    column = pyarrow.parquet.read_metadata(parquet / "train-1.parquet").row_group(2).column(0)
    data = bytearray((parquet / "train-1.parquet").read_bytes())
    data[column.dictionary_page_offset : column.dictionary_page_offset + 8] = b"\xff" * 8
    (parquet / "train-1.parquet").write_bytes(data)
    checked = check_rows(hub_stream(parquet, held_out_rows=1), squares, {})
    assert checked.rows == 59 - 4
    assert len(checked.broken) == 1
    assert "train-1.parquet, row group 2 cannot be read from its row 0 on" in checked.broken[0]
    fresh = shown(batches(hub_stream(parquet, held_out_rows=1), squares, {}, 4, 0), 30)
    again = shown(batches(hub_stream(parquet, held_out_rows=1), squares, {}, 4, 0, position=80), 10)
    assert [batch[:2] for batch in again] == [batch[:2] for batch in fresh[20:]]


def test_files_that_only_reading_tells_the_length_of_are_shared_whole(tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    for file in range(3):
        text = "".join(json.dumps({"number": 10 * file + n}) + "\n" for n in range(10))
        (tmp_path / "lines" / f"train-{file}.jsonl").write_text(text)
    stream = hub_stream(tmp_path / "lines", held_out_rows=2)
    assert isinstance(stream.shards.whole, IterableParts)  # type: ignore[attr-defined]
    each = [own(stream, 9, 0, rank, 2) for rank in range(2)]
    assert not set(each[0]) & set(each[1])
    assert own(hub_stream(tmp_path / "lines", held_out_rows=2), 40, 35) == own(stream, 75)[35:]


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
