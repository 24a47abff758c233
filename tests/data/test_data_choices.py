"""One of several values, drawn among those that can be read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from bridgeflow.data.choices import read_drawn
from bridgeflow.errors import BridgeflowError


def read(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BridgeflowError(f"{value!r} is no text.")
    return value.strip()


@pytest.mark.parametrize("bad", [None, "", "   ", 3])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_each_that_can_be_read_is_as_likely_whatever_the_others_are(bad: Any, place: int) -> None:
    values = ["a", "b", "c"]
    values[place:place] = [bad, bad]
    drawn = Counter(read_drawn(values, read, np.random.default_rng(seed)) for seed in range(900))
    assert drawn.keys() == {"a", "b", "c"}
    assert min(drawn.values()) > 240


def test_none_that_can_be_read_is_an_error() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(BridgeflowError, match="is no text"):
        read_drawn([None, "", " "], read, rng)
    with pytest.raises(BridgeflowError, match=r"^the list of captions is empty: give at least one.$"):
        read_drawn((), read, rng, "captions")
    with pytest.raises(BridgeflowError, match=r"^None is no text.$"):
        read_drawn(None, read, rng)


def test_draw_of_a_whole_list_is_the_first_of_the_generator() -> None:
    values = ["a", "b", "c", "d"]
    for seed in range(8):
        first = values[int(np.random.default_rng(seed).integers(4))]
        assert read_drawn(values, read, np.random.default_rng(seed)) == first
