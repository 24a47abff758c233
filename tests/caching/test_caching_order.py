"""The order of cached rows: every row once an epoch, near its neighbours on the disk."""

from __future__ import annotations

from bridgeflow.caching.order import WindowedOrder

COUNTS = [5, 7, 0, 7, 3, 7, 7, 6, 2]


def rows(window: int, seed: int, epoch: int) -> list[int]:
    order = WindowedOrder(COUNTS, window, seed, epoch)
    return [order[place] for place in range(sum(COUNTS))]


def test_every_row_comes_once_in_an_epoch() -> None:
    for window in (1, 2, 4, 9, 50):
        assert sorted(rows(window, 3, 1)) == list(range(sum(COUNTS)))
        assert len(WindowedOrder(COUNTS, window, 3, 1)) == sum(COUNTS)


def test_it_depends_on_seed_and_epoch_and_on_no_place_asked_for_before() -> None:
    straight = rows(3, 0, 5)
    assert straight != rows(3, 0, 6)
    assert straight != rows(3, 1, 5)
    order = WindowedOrder(COUNTS, 3, 0, 5)
    places = [40, 2, 17, 41, 0, 39]
    assert [order[place] for place in places] == [straight[place] for place in places]


def test_a_window_holds_the_rows_of_few_shards_and_mixes_them() -> None:
    shard_of = [number for number, count in enumerate(COUNTS) for _ in range(count)]
    first = sum(COUNTS[number] for number in WindowedOrder(COUNTS, 3, 0, 0).shards[:3])
    seen = [shard_of[row] for row in rows(3, 0, 0)]
    assert set(seen[:first]) == {n for n in WindowedOrder(COUNTS, 3, 0, 0).shards[:3].tolist() if COUNTS[n]}
    assert set(seen[:first]).isdisjoint(seen[first:])
    assert seen[:first] != sorted(seen[:first], key=seen.index)


def test_a_small_set_is_shuffled_as_a_whole() -> None:
    shard_of = [number for number, count in enumerate(COUNTS) for _ in range(count)]
    seen = [shard_of[row] for row in rows(9, 0, 0)]
    assert len(set(seen[:12])) >= 5
