"""Tar shards: what a sample holds, what is broken, and shards far away."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming_tars import numbered, numbers, own, scene, shown, stream_of, write_tar

from bridgeflow.assembly import assemble
from bridgeflow.cli.main import invoke
from bridgeflow.config import recipe as recipes
from bridgeflow.data.batches import batches
from bridgeflow.data.check import check_rows
from bridgeflow.data.shards import ShardStream
from bridgeflow.data.webdataset import TarShards, WebDataset, expanded
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.task import Task
from bridgeflow_plugins.blocks import render_scene

pytestmark = pytest.mark.usefixtures("lengths_of_its_own")


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
    # At most a tenth of 6 shards of 20, as the first one lets expect, but where another number is asked for.
    for settings, count in (({}, 12), ({"held_out_rows": 15}, 15)):
        parts = [sorted(numbers(stream_of(tars, split, **settings))) for split in ("train", "held_out")]
        assert parts == [list(range(count, 103)), list(range(count))]


def test_more_rows_than_can_be_held_out_are_refused(tars: Path) -> None:
    with pytest.raises(UsageError, match=r"^data\.held_out_rows=999 is more than the 20 rows of \S*000\.tar that can"):
        stream_of(tars, held_out_rows=999)
    with pytest.raises(UsageError, match=r"^data\.held_out_rows=20 leaves none of the 20 rows of \S*000\.tar to"):
        stream_of(tars / "000.tar", held_out_rows=20)


# -- columns that not every row has --------------------------------------------------------------------------


def captioned(first: int, count: int, words: bool, field: bool = False) -> list[tuple[str, bytes]]:
    files = []
    for n in range(first, first + count):
        said = {"number": n, **({"digits": n} if words and field else {})}
        files.append((f"{n:04d}.json", json.dumps(said).encode()))
        files += [(f"{n:04d}.digits.txt", b"7")] if words and not field else []
    return files


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("field", [False, True])
@pytest.mark.parametrize(
    "layout", [[[(40, False)], [(20, True)]], [[(20, True)], [(40, False)]], [[(40, False), (20, True)]]]
)
def test_column_is_found_in_whichever_row_has_it(
    tmp_path: Path, layout: list[list[tuple[int, bool]]], field: bool, packed: bool
) -> None:
    first = 0
    for shard, parts in enumerate(layout):
        files: list[tuple[str, bytes]] = []
        for count, words in parts:
            files += captioned(first, count, words, field)
            first += count
        path = write_tar(tmp_path / f"{shard}.tar", files)
        if packed:
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    for split, held in (("held_out", 2), ("train", 58)):
        stream = stream_of(tmp_path, split, held_out_rows=2)
        stream.look_for(["digits"])
        assert "digits" in stream.columns
        assert len(list(stream.rows_from(0, 0))) == held
    assert sum("digits" in row for row in stream.rows_from(0, 0)) == 18


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("null", [False, True])
def test_rows_that_lack_a_column_are_not_held_out(tmp_path: Path, packed: bool, null: bool) -> None:
    """Rows 0 to 29 of two shards lack the column or have null in it, and so does row 31."""
    for shard in range(2):
        files = []
        for n in range(20 * shard, 20 * shard + 20):
            empty = {"digits": None} if null else {}
            said = {"number": n, **(empty if n < 30 or n == 31 else {"digits": n})}
            files.append((f"{n:04d}.json", json.dumps(said).encode()))
        path = write_tar(tmp_path / f"{shard}.tar", files)
        if packed:
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    plain, apart, train = (
        stream_of(tmp_path, split, held_out_rows=3, shuffle_buffer=0) for split in ("held_out", "held_out", "train")
    )
    for stream in (apart, train):
        stream.look_for(["digits", "number"])
    assert (numbers(plain), numbers(apart)) == ([0, 1, 2], [30, 31, 32, 33])
    assert numbers(train) == [*range(30), *range(34, 40)]
    for position in range(37):
        assert [row["number"] for row in train.rows_from(position, 0)] == numbers(train)[position:]
    assert "1.tar" in apart.description
    assert apart.fingerprint != plain.fingerprint
    again = stream_of(tmp_path, "held_out", held_out_rows=3, shuffle_buffer=0)
    again.look_for(["number"])
    assert (numbers(again), again.fingerprint) == ([0, 1, 2], plain.fingerprint)


def test_some_of_few_rows_with_a_column_are_left_to_train_on(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", captioned(0, 50, False) + captioned(50, 4, True))
    apart, train = (stream_of(tmp_path, split) for split in ("held_out", "train"))
    for stream in (apart, train):
        stream.look_for(["digits"])
    assert sorted(numbers(apart)) == [50, 51]
    assert sorted(numbers(train)) == [*range(50), 52, 53]
    with pytest.raises(UsageError, match=r"^data\.held_out_rows=4 is more than the 3 rows of \S*0\.tar that can"):
        stream_of(tmp_path, held_out_rows=4).look_for(["digits"])
    three = stream_of(tmp_path, held_out_rows=3)
    three.look_for(["digits"])
    assert sorted(numbers(three)) == [*range(50), 53]


def test_column_that_is_nowhere_is_missed_after_a_look_at_some_rows(tars: Path) -> None:
    looked: list[Any] = []

    class Watched(TarShards):
        def columns(self, token: Any) -> set[str]:
            looked.append(token)
            return super().columns(token)

    names = [str(path) for path in sorted(tars.glob("*.tar"))]
    stream = ShardStream(Watched(names), ("number",), "", "", 8)
    stream.look_for(["number"])
    assert looked == []
    stream.look_for(["text"])
    assert stream.columns == ("number",)
    assert len(looked) >= 103


def test_command_passes_over_rows_without_words(
    tmp_path: Path, scenes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [(name, data) for number in range(40) for name, data in scene(number) if number > 19 or name[-3:] == "png"]
    write_tar(tmp_path / "late.tar", files)
    assert invoke(["data", "check", "--task", "t2i", "--data", f"webdataset:{tmp_path}/late.tar"]) == 1
    told = capfd.readouterr().out
    assert "16 of 36 rows read can be used" in told
    assert "the first rows of" in told
    assert "4 of 4 rows read can be used" in told
    assert f"{tmp_path}/late.tar/0012: the column 'text' is empty." in told


def test_sample_without_a_file_is_called_by_its_tar_and_key(tmp_path: Path, squares: Task) -> None:
    write_tar(tmp_path / "a.tar", [*numbered(0, 4), ("0004.txt", b"alone"), ("in/0005.json", b"{}"), *numbered(6, 20)])
    checked = check_rows(stream_of(tmp_path, held_out_rows=1), squares, {})
    names = [f"{tmp_path}/a.tar/0004", f"{tmp_path}/a.tar/in/0005"]
    assert sorted(checked.broken) == [f"{name}: the column 'number' is empty." for name in names]
    for workers in (0, 1):
        made = batches(stream_of(tmp_path, held_out_rows=1), squares, {}, 5, 0, workers=workers)
        assert {told for batch in shown(made, 5) for told in batch[2]} == set(checked.broken)


@pytest.mark.parametrize("packed", [False, True])
def test_run_of_broken_samples_ends_no_training(tmp_path: Path, squares: Task, packed: bool) -> None:
    for shard in range(4):
        files = [(f"{n:04d}.json", b"{}") for n in range(400)] if shard == 1 else numbered(100 * shard, 100)
        path = write_tar(tmp_path / f"{shard}.tar", files)
        if packed:
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    fresh = shown(batches(stream_of(tmp_path, held_out_rows=1, shuffle_buffer=0), squares, {}, 10, 0), 80)
    seen = Counter(n for batch in fresh for n in batch[0])
    assert seen.keys() == {*range(1, 100), *range(200, 400)}
    assert max(seen.values()) < (60 if packed else 40)
    assert sum(len(batch[2]) for batch in fresh) == 402
    again = batches(stream_of(tmp_path, held_out_rows=1, shuffle_buffer=0), squares, {}, 10, 0, 200, workers=1)
    assert [batch[:2] for batch in shown(again, 10)] == [batch[:2] for batch in fresh[20:30]]


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
    with pytest.raises(
        BridgeflowError, match=r"^11 rows one after another cannot be read, the last because: .*tar/\d: -1 is"
    ):
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
