"""Streams of the `datasets` library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streaming_tars import numbers, own, shown

from bridgeflow.data.batches import batches
from bridgeflow.data.check import check_rows
from bridgeflow.data.hub import HubDataset
from bridgeflow.data.hub_shards import IterableParts, ParquetFiles
from bridgeflow.data.shards import ShardStream
from bridgeflow.task import Task

pytestmark = pytest.mark.usefixtures("lengths_of_its_own")


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
