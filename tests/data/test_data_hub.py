"""Data sets of the `datasets` library, on this machine: splits, streams, broken rows, what cannot be had."""

from __future__ import annotations

import io
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from bridgeflow.data.batches import batches
from bridgeflow.data.check import check_rows
from bridgeflow.data.hub import HubDataset
from bridgeflow.data.hub_shards import IterableParts
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.task import Task

COUNT, BROKEN = 24, 7


def png(red: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2), (red, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and caches that vanish."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`, one data set of 24 captioned pictures of which the 7th is broken; `split`, the same in two splits."""
    root = tmp_path_factory.mktemp("saved")
    rows = [
        {"image": {"bytes": b"junk" if i == BROKEN else png(i), "path": None}, "text": f"t{i}", "number": i}
        for i in range(COUNT)
    ]
    columns = {"image": datasets.Image(), "text": datasets.Value("string"), "number": datasets.Value("int64")}
    whole = datasets.Dataset.from_list(rows, features=datasets.Features(columns))
    datasets.disable_progress_bars()
    whole.save_to_disk(str(root / "whole"))
    parts = {"train": whole.select(range(20)), "validation": whole.select(range(20, COUNT))}
    datasets.DatasetDict(parts).save_to_disk(str(root / "split"))
    return root


def rows_of(path: Path, split: Any = "train", **settings: Any) -> Rows:
    rows = HubDataset(path=str(path), **settings).open(split)
    assert isinstance(rows, Rows)
    return rows


def stream_of(path: Path, split: Any = "train", **settings: Any) -> Stream:
    stream = HubDataset(path=str(path), streaming=True, **settings).open(split)
    assert isinstance(stream, Stream)
    return stream


def refusal(path: Path | str, **settings: Any) -> str:
    with pytest.raises(BridgeflowError) as caught:
        HubDataset(path=str(path), **settings).open("train")
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def numbers(stream: Stream, position: int = 0, epoch: int = 0) -> list[int]:
    return [row["number"] for row in stream.rows_from(position, epoch)]


def test_rows_have_columns_a_length_and_words(saved: Path) -> None:
    rows = rows_of(saved / "split")
    assert rows.columns == ("image", "text", "number")
    assert len(rows) == 20
    assert rows.description == f"20 rows of hf:{saved / 'split'}"
    assert rows[3]["text"] == "t3"
    assert rows_of(saved / "split").fingerprint == rows.fingerprint
    assert rows_of(saved / "split", "held_out").fingerprint != rows.fingerprint


def test_pictures_stay_encoded_so_that_a_broken_one_breaks_only_its_row(saved: Path) -> None:
    from bridgeflow_plugins.image_latent import ImageLatent

    modality = ImageLatent(ImageLatent.Options())
    rows = rows_of(saved / "split")
    assert modality.read(rows[5]["image"])[0, 0].tolist() == [5, 0, 0]
    with pytest.raises(BridgeflowError):
        modality.read(rows[BROKEN]["image"])
    assert modality.read(rows[BROKEN + 1]["image"])[0, 0].tolist() == [8, 0, 0]


def test_split_of_its_own_is_held_out(saved: Path) -> None:
    held = rows_of(saved / "split", "held_out")
    assert [held[i]["number"] for i in range(len(held))] == [20, 21, 22, 23]
    chosen = rows_of(saved / "split", "held_out", held_out="train")
    assert len(chosen) == 20


@pytest.mark.parametrize(("wanted", "held"), [(1, 1), (2, 2), (7, 7), (23, 23), (256, 2)])
def test_first_rows_are_held_out_where_no_split_serves(saved: Path, wanted: int, held: int) -> None:
    train, apart = (rows_of(saved / "whole", split, held_out_rows=wanted) for split in ("train", "held_out"))
    assert [apart[i]["number"] for i in range(len(apart))] == list(range(held))
    assert [train[i]["number"] for i in range(len(train))] == list(range(held, COUNT))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_number_of_few_rows_is_held_out_or_refused(tmp_path: Path, streaming: bool) -> None:
    datasets.Dataset.from_dict({"number": range(5)}).save_to_disk(str(tmp_path / "set"))
    opened = stream_of if streaming else rows_of

    def found(split: str, wanted: int) -> list[int]:
        own = opened(tmp_path / "set", split, held_out_rows=wanted)
        return sorted(numbers(own)) if isinstance(own, Stream) else [own[i]["number"] for i in range(len(own))]

    assert [found(split, 2) for split in ("held_out", "train")] == [[0, 1], [2, 3, 4]]
    for split in ("held_out", "train"):
        with pytest.raises(UsageError, match=r"^data\.held_out_rows=5 leaves none of the 5 rows of hf:.* to train on"):
            opened(tmp_path / "set", split, held_out_rows=5)


@pytest.mark.parametrize(("share", "held"), [(0.25, 6), (0.001, 1), (0.999, 23), (0.0, 0)])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_share_is_held_out(saved: Path, share: float, held: int, streaming: bool) -> None:
    opened = stream_of if streaming else rows_of
    apart = opened(saved / "whole", "held_out", held_out=share)
    train = opened(saved / "whole", held_out=share)
    found = [
        sorted(numbers(own)) if isinstance(own, Stream) else [own[i]["number"] for i in range(len(own))]
        for own in (apart, train)
    ]
    assert found == [list(range(held)), list(range(held, COUNT))]


def test_a_share_of_a_stream_of_several_files_is_refused_with_what_works(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / f"train-{name}.jsonl").write_text('{"number": 1}\n' * 12)
    with pytest.raises(BridgeflowError, match=r"^data\.held_out=0\.5 is a share, .*: set data\.held_out_rows, or name"):
        stream_of(tmp_path / "set", held_out=0.5)


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_have_the_numbers_that_they_have_in_the_split(saved: Path, squares: Task, streaming: bool) -> None:
    opened = stream_of if streaming else rows_of
    path = saved / "whole"
    told = check_rows(opened(path, held_out_rows=2), squares, {"number": "none"}).broken
    assert sorted(sentence.partition(":")[0] for sentence in told) == sorted(f"row {n} of hf" for n in range(2, COUNT))


def test_rows_of_streamed_files_have_the_numbers_of_their_file(tmp_path: Path, squares: Task) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "set").mkdir()
    values = [None if n in (3, 8, 11) else n for n in range(15)]
    file = tmp_path / "set" / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"number": pyarrow.array(values, "int64")}), file, row_group_size=4)
    told = check_rows(stream_of(tmp_path / "set"), squares, {}).broken
    assert sorted(told) == sorted(f"row {n} of {file}: the column 'number' is empty." for n in (3, 8, 11))
    file.unlink()
    lines = [json.dumps({"number": n}) + "\n" for n in values]
    (tmp_path / "set" / "train.jsonl").write_text("".join(lines))
    told = check_rows(stream_of(tmp_path / "set", held_out_rows=1), squares, {}).broken
    assert sorted(told) == sorted(
        f"row {n} of hf:{tmp_path / 'set'}: the column 'number' is empty." for n in (3, 8, 11)
    )


def test_run_of_rows_without_a_value_ends_no_training(tmp_path: Path, squares: Task) -> None:
    values = [None if 100 <= n < 400 else n for n in range(500)]
    datasets.Dataset.from_dict({"number": values}).save_to_disk(str(tmp_path / "set"))
    for opened in (
        rows_of(tmp_path / "set", held_out_rows=8),
        stream_of(tmp_path / "set", held_out_rows=8, shuffle_buffer=0),
    ):
        seen = {n for made in islice(batches(opened, squares, {}, 8, 0), 64) for n in made.source["number"].tolist()}
        assert seen == {*range(8, 100), *range(400, 500)}


def test_cache_that_cannot_be_written_is_told_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"number": 1}\n')
    cache = tmp_path / "file" / "datasets"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    told = refusal(tmp_path / "set")
    assert told.endswith(
        f": nothing can be written to its cache {str(cache)!r}: set HF_HOME to a folder that can be written."
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set" / "train.jsonl").write_text("{junk\n")
    assert "see that its files are whole" in refusal(tmp_path / "set")


def test_stream_holds_out_its_first_rows(saved: Path) -> None:
    train, apart = (
        stream_of(saved / "whole", split, held_out_rows=256, shuffle_buffer=0) for split in ("train", "held_out")
    )
    assert numbers(apart) == [0, 1]
    assert numbers(train) == list(range(2, COUNT))
    assert train.columns == ("image", "text", "number")


def test_stream_is_shuffled_by_epoch_and_can_be_taken_up_anywhere(saved: Path) -> None:
    stream = stream_of(saved / "split", shuffle_buffer=8)
    epochs = [numbers(stream, epoch=epoch) for epoch in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(20))
    assert len({tuple(order) for order in epochs}) == 3
    again = stream_of(saved / "split", shuffle_buffer=8)
    for position in (0, 1, 7, 19, 20):
        assert numbers(again, position, epoch=1) == epochs[1][position:]
    assert [next(iter(again.rows_from(0, 0)))["image"].keys()] == [{"bytes", "path"}]


def test_training_on_a_stream_resumes_at_the_same_batch(saved: Path, squares: Task) -> None:
    def shown(first: int, count: int) -> list[Any]:
        made = batches(stream_of(saved / "split", shuffle_buffer=8), squares, {}, 6, seed=0, position=6 * first)
        return [(b.source["number"].tolist(), b.target["number"].tolist()) for b in islice(made, count)]

    fresh = shown(0, 6)
    assert shown(4, 2) == fresh[4:]
    assert len({number for own, _ in fresh[:3] for number in own}) == 18


def test_folder_of_json_lines_is_read_and_streamed(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    text = "".join(json.dumps({"text": f"t{i}", "number": i}) + "\n" for i in range(12))
    (tmp_path / "set" / "train.jsonl").write_text(text)
    assert rows_of(tmp_path / "set")[0] == {"text": "t1", "number": 1}
    stream = stream_of(tmp_path / "set", held_out_rows=2, shuffle_buffer=0)
    assert stream.columns == ("text", "number")
    assert numbers(stream) == list(range(2, 12))


def test_stream_whose_columns_are_unknown_tells_them_by_its_first_row() -> None:
    unknown = datasets.IterableDataset.from_generator(lambda: ({"number": i} for i in range(3)))
    assert unknown.column_names is None
    stream = HubDataset(path="made", shuffle_buffer=0).stream(IterableParts(unknown, "hf:made"), unknown, "hf:made")
    assert stream.columns == ("number",)
    assert numbers(stream, 1) == [1, 2]


def test_stream_that_breaks_off_says_why_and_what_helps() -> None:
    def broken() -> Any:
        yield {"number": 0}
        raise OSError("the line went dead") from ConnectionError("no route to host.")

    with pytest.raises(BridgeflowError) as caught:
        list(IterableParts(datasets.IterableDataset.from_generator(broken), "hf:far").read(0, 0))
    assert str(caught.value) == (
        "a stream of hf:far broke off (ConnectionError: no route to host): set data.streaming=false."
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_split_lists_those_there_are(saved: Path, streaming: bool) -> None:
    path = saved / "split"
    assert refusal(path, train="trian", streaming=streaming) == (
        f"hf:{path} has no split 'trian', only train, validation: set data.train."
    )
    assert refusal(path, held_out="test", streaming=streaming) == (
        f"hf:{path} has no split 'test', only train, validation: set data.held_out."
    )


@pytest.mark.parametrize("config", [None, "small"])
@pytest.mark.parametrize("streaming", [False, True])
def test_data_set_that_is_not_to_be_had_is_told_at_once(config: str | None, streaming: bool) -> None:
    started = time.monotonic()
    told = refusal("nobody-at-all/nothing", config=config, streaming=streaming)
    assert told.startswith("hf:nobody-at-all/nothing cannot be loaded (")
    assert told.endswith("): give a hub name that this machine can reach, or a local folder.")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["missing", "empty", "broken"])
def test_local_folder_without_a_data_set_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{")
    told = refusal(tmp_path / name)
    assert told.startswith(f"hf:{tmp_path / name} cannot be loaded (")


def test_cause_is_the_first_one_not_the_library_s_wrapping(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"number": 1}\n{junk\n')
    assert "JSON parse error" in refusal(tmp_path / "set")
    assert "JSON parse error" in refusal(tmp_path / "set", streaming=True)
