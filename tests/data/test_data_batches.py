"""Batches: the order of training, ranks, resuming anywhere, and rows that cannot be read."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any

import numpy as np
import pytest
import torch

from bridgeflow.data.batches import EpochOrder, batches
from bridgeflow.data.check import check_rows
from bridgeflow.data.pairs import (
    MOST_IN_ORDER,
    MOST_TRIES,
    Batch,
    check_columns,
    describe_row,
    named,
    read_examples,
    read_pair,
    usable,
)
from bridgeflow.data.rows import NamedRow
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.settings import Settings
from bridgeflow.task import Task

Make = Callable[[Any], Any]
Shown = tuple[list[int], list[int], list[str]]


def shown(made: Iterator[Batch], count: int) -> list[Shown]:
    """(numbers, draws, failures) of each batch."""
    return [
        (batch.source["number"].tolist(), batch.target["number"].tolist(), batch.failures)
        for batch in islice(made, count)
    ]


def numbers(made: Iterator[Batch], count: int) -> list[int]:
    return [number for own, _, _ in shown(made, count) for number in own]


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    order = EpochOrder(50, seed=3)
    epochs = [[order[epoch * 50 + place] for place in range(50)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(range(50))
    assert [EpochOrder(50, seed=3)[place] for place in range(100, 150)] == epochs[2]
    assert [EpochOrder(50, seed=4)[place] for place in range(50)] != epochs[0]


def test_order_may_be_asked_out_of_turn() -> None:
    straight = EpochOrder(7, seed=0)
    expected = [straight[place] for place in range(21)]
    mixed = EpochOrder(7, seed=0)
    assert [mixed[place] for place in reversed(range(21))] == expected[::-1]


@pytest.mark.parametrize("kind", ["rows", "stream"])
@pytest.mark.parametrize("broken", [(), (3,), (4, 5, 6), (0, 11)])
def test_nth_batch_is_the_same_however_it_is_reached(
    request: pytest.FixtureRequest, squares: Task, kind: str, broken: tuple[int, ...]
) -> None:
    values = [-1 - i if i in broken else i for i in range(13)]
    data = request.getfixturevalue(kind)(values)
    fresh = shown(batches(data, squares, {}, 4, seed=1), 9)
    for first in (1, 2, 5, 7):
        resumed = shown(batches(data, squares, {}, 4, seed=1, position=4 * first), 9 - first)
        assert [batch[:2] for batch in resumed] == [batch[:2] for batch in fresh[first:]]
    assert all(len(batch[0]) == 4 for batch in fresh)


def test_worker_processes_give_the_same_batches(rows: Make, squares: Task) -> None:
    data = rows([-1 if i == 5 else i for i in range(10)])
    here = shown(batches(data, squares, {}, 3, seed=2), 5)
    there = shown(batches(data, squares, {}, 3, seed=2, workers=1), 5)
    assert there == here
    assert any(failures for _, _, failures in here)


def test_sentence_from_a_worker_process_is_free_of_its_traceback(rows: Make, squares: Task) -> None:
    with pytest.raises(BridgeflowError) as caught:
        next(batches(rows([-1, -2]), squares, {}, 2, seed=0, workers=1))
    assert str(caught.value).startswith("2 rows one after another cannot be read, the last because: row ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_ranks_are_disjoint_and_together_complete(request: pytest.FixtureRequest, squares: Task, kind: str) -> None:
    data = request.getfixturevalue(kind)(range(12))
    each = [numbers(batches(data, squares, {}, 2, 0, rank=rank, world=3), 2) for rank in range(3)]
    assert sorted(number for own in each for number in own) == list(range(12))
    together = shown(batches(data, squares, {}, 6, seed=0), 2)
    apart = [shown(batches(data, squares, {}, 2, 0, rank=rank, world=3), 2) for rank in range(3)]
    for step in range(2):
        assert [n for own in apart for n in own[step][0]] == together[step][0]
        assert [n for own in apart for n in own[step][1]] == together[step][1]


def test_draws_of_a_row_differ_between_epochs(rows: Make, squares: Task) -> None:
    made = shown(batches(rows(range(4)), squares, {}, 4, seed=0), 3)
    by_number = [dict(zip(own, draws, strict=True)) for own, draws, _ in made]
    for number in range(4):
        assert len({epoch[number] for epoch in by_number}) == 3


def test_unreadable_row_is_named_and_another_one_stands_in(rows: Make, squares: Task) -> None:
    values = [0, 1, -7, 3, 4, 5]
    made = shown(batches(rows(values), squares, {}, 6, seed=0), 40)
    others = []
    for own, draws, failures in made:
        assert set(own) == {0, 1, 3, 4, 5}
        assert failures == ["row 2: -7 is negative: numbers from 0 on are expected."]
        assert len(set(draws)) == 6
        others += (Counter(own) - Counter([0, 1, 3, 4, 5])).elements()
    assert set(others) == {0, 1, 3, 4, 5}


def test_run_of_unreadable_rows_ends_no_training(rows: Make, squares: Task) -> None:
    values = [-1 if 100 <= i < 400 else i for i in range(500)]
    made = shown(batches(rows(values), squares, {}, 20, seed=3), 50)
    seen = Counter(number for own, _, _ in made for number in own)
    assert seen.keys() == {number for number in values if number >= 0}
    # No row serves for all of them: 1000 reads of 200 rows, of which each comes twice for itself.
    assert max(seen.values()) < 15
    assert sum(len(failures) for _, _, failures in made) > 600
    apart = [shown(batches(rows(values), squares, {}, 10, 3, rank=rank, world=2, workers=rank), 5) for rank in range(2)]
    for step in range(5):
        assert [n for own in apart for n in own[step][0]] == made[step][0]
        assert [n for own in apart for n in own[step][1]] == made[step][1]


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_verdict_on_a_row_does_not_hang_on_one_draw(request: pytest.FixtureRequest, squares: Task, kind: str) -> None:
    def either(row: Mapping[str, Any], rng: np.random.Generator) -> tuple[int, int]:
        """A draw as the task of somebody else makes it, before it knows what can be read."""
        drawn = row["number"][int(rng.integers(len(row["number"])))]
        return squares.from_modality.read(drawn), int(rng.integers(1 << 30))

    task = squares
    task.pair = either  # type: ignore[method-assign]
    data = request.getfixturevalue(kind)([*([i, i, -1] for i in range(20)), [-1, -2]])
    checked = check_rows(data, task, {})
    assert checked.unusable == 1
    assert checked.broken[0].startswith("row 20: -")
    made = shown(batches(data, task, {}, 21, seed=0), 6)
    assert {len(failures) for _, _, failures in made} == {1}
    assert all(set(own) == set(range(20)) for own, _, _ in made)


def collate_small(items: Sequence[int]) -> dict[str, Any]:
    """Numbers below 100, of which 50 is none in a batch."""
    if max(items) >= 100:
        raise BridgeflowError("it is too large: numbers below 100 are expected.")
    return {"number": torch.tensor([float("nan") if item == 50 else float(item) for item in items])}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_training_passes_over_what_the_check_finds(
    request: pytest.FixtureRequest, squares: Task, kind: str, workers: int
) -> None:
    task = squares
    task.to_modality = type(squares.to_modality)(Settings())
    task.from_modality.collate = collate_small  # type: ignore[method-assign]
    data = request.getfixturevalue(kind)([0, 50, 2, 100, -1, 5, None, 7])
    found = check_rows(data, task, {}).broken
    assert [sentence.partition(":")[0] for sentence in found] == ["row 1", "row 3", "row 4", "row 6"]
    assert "its 'number' holds numbers that are not finite" in found[0]
    made = batches(data, task, {}, 4, seed=0, workers=workers)
    seen, told = set(), set()
    for own, _, failures in shown(made, 2):
        seen |= set(own)
        told |= set(failures)
    assert seen == {0, 2, 5, 7}
    assert told == set(found)


def test_what_lies_behind_a_run_of_unusable_ones_is_reached_but_no_end_is_waited_for() -> None:
    bad = BridgeflowError("bad.")
    assert list(usable(iter([bad, 1, bad, bad, 2, 3]), 2)) == [bad, 1, bad, bad, 2]
    assert list(usable([], 2)) == []
    endless = usable(repeat(bad), 2)
    assert len(list(endless)) == MOST_IN_ORDER


def test_row_is_called_by_its_own_name_first() -> None:
    assert describe_row(NamedRow({"image": {"path": "b.png", "bytes": b""}}, "row 7 of it"), 3) == "row 7 of it"
    assert pickle.loads(pickle.dumps(NamedRow({"a": 1}, "x"))).name == "x"


def test_unreadable_row_of_a_stream_is_named_and_the_next_one_stands_in(stream: Make, squares: Task) -> None:
    first, second, *_ = shown(batches(stream([0, -7, None, 3, 4, 5]), squares, {}, 3, seed=0), 2)
    assert first[0] == [0, 3, 3]
    assert first[2] == [
        "row 1: -7 is negative: numbers from 0 on are expected.",
        "row 2: the column 'number' is empty.",
    ]
    assert (second[0], second[2]) == ([3, 4, 5], [])


def test_last_row_of_a_stream_is_stood_in_for_by_the_next_epoch(stream: Make, squares: Task) -> None:
    made = shown(batches(stream([0, 1, 2, -7]), squares, {}, 4, seed=0), 2)
    # The second epoch goes backwards and meets the broken row again.
    assert made[0][0] == [0, 1, 2, 2]
    assert made[1][0] == [2, 2, 1, 0]


def test_stream_goes_on_into_further_epochs(stream: Make, squares: Task) -> None:
    assert numbers(batches(stream(range(5)), squares, {}, 2, seed=0), 5) == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("kind", ["rows", "stream"])
@pytest.mark.parametrize(("count", "told"), [(3, 3), (500, MOST_TRIES)])
def test_nothing_readable_gives_a_sentence_in_the_end(
    request: pytest.FixtureRequest, squares: Task, kind: str, count: int, told: int
) -> None:
    data = request.getfixturevalue(kind)([-1 - i for i in range(count)])
    with pytest.raises(BridgeflowError) as caught:
        next(batches(data, squares, {}, 2, seed=0))
    sentence = str(caught.value)
    assert sentence.startswith(f"{told} rows one after another cannot be read, the last because: row ")
    assert sentence.endswith("numbers from 0 on are expected; see them all with: bridgeflow data check.")


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_empty_data_give_a_sentence(request: pytest.FixtureRequest, squares: Task, kind: str) -> None:
    data = request.getfixturevalue(kind)([])
    fix = r"give data with rows, or hold fewer out \(data\.held_out"
    with pytest.raises(BridgeflowError, match=f"^{data.description}: nothing to train on; {fix}"):
        next(batches(data, squares, {}, 2, seed=0))


def test_missing_column_is_named_with_what_it_holds_and_the_mend(squares: Task) -> None:
    with pytest.raises(UsageError) as caught:
        check_columns(type(squares), "squares", ("image", "text"), {}, "12 rows in photos")
    assert str(caught.value) == (
        "task 'squares' needs a column 'number' (a whole number), but 12 rows in photos has image, text: "
        "add it, or name the one that holds it with --columns number=NAME."
    )


def test_renamed_column_is_looked_for_under_its_own_name(squares: Task) -> None:
    check_columns(type(squares), "squares", ("digits",), {"number": "digits"}, "data")
    with pytest.raises(UsageError, match="needs a column 'digits'"):
        check_columns(type(squares), "squares", ("number",), {"number": "digits"}, "data")
    with pytest.raises(
        UsageError, match="--columns names 'nubmer', which task 'squares' does not need: it needs number"
    ):
        check_columns(type(squares), "squares", ("number",), {"nubmer": "number"}, "data")


def test_columns_are_renamed_for_the_task(squares: Task) -> None:
    assert named({"digits": 4, "x": 1}, {"number": "digits"}) == {"digits": 4, "x": 1, "number": 4}
    assert read_pair(squares, {"digits": 4}, {"number": "digits"}, 0, 0)[0] == 4
    with pytest.raises(BridgeflowError, match=r"^row 8: the column 'digits' is empty\.$"):
        read_pair(squares, {"number": 4}, {"number": "digits"}, 8, 0)


def test_draw_of_a_pair_depends_on_the_seed_alone(squares: Task) -> None:
    draws = [read_pair(squares, {"number": 1}, {}, index, seed)[1] for index, seed in [(0, 5), (9, 5), (0, 6)]]
    assert draws[0] == draws[1] == int(np.random.default_rng(5).integers(1 << 30))
    assert draws[2] != draws[0]


def test_row_is_called_by_its_file_where_it_has_one(tmp_path: Any) -> None:
    assert describe_row({"text": "x", "image": tmp_path / "a.png"}, 3) == str(tmp_path / "a.png")
    assert describe_row({"image": {"path": "b.png", "bytes": b""}}, 3) == "b.png"
    assert describe_row({"image": {"path": None, "bytes": b""}}, 3) == "row 3"


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_check_names_every_row_that_cannot_be_used(request: pytest.FixtureRequest, squares: Task, kind: str) -> None:
    data = request.getfixturevalue(kind)([0, -7, 2, None, 4])
    seen: list[tuple[int, int]] = []
    checked = check_rows(data, squares, {}, on_progress=lambda done, total: seen.append((done, total)))
    assert checked.rows == 5
    assert checked.broken == [
        "row 1: -7 is negative: numbers from 0 on are expected.",
        "row 3: the column 'number' is empty.",
    ]
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5]
    assert check_rows(data, squares, {}, limit=2).rows == 2
    assert len(check_rows(data, squares, {}, limit=2).broken) == 1


def test_check_judges_held_out_rows_as_scoring_does(rows: Make, squares: Task) -> None:
    def scored(row: Mapping[str, Any], rng: np.random.Generator, whole: bool = False) -> tuple[int, int]:
        return abs(row["number"]), 0

    squares.held_out_pair = scored  # type: ignore[method-assign]
    data = rows([0, -7, None])
    assert [len(check_rows(data, squares, {}, held_out=held_out).broken) for held_out in (False, True)] == [2, 1]
    assert len(read_examples(data, squares, {}, 3).sources) == 2
