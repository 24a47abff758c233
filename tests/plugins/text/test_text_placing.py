"""Words of a sum at their place in the line: where they stand, and that what is added replaces what is taken."""

from __future__ import annotations

import pytest
import torch

from bridgeflow_plugins.text import Text
from bridgeflow_plugins.text.placing import Placed, in_place

LINE = "a large red cube left of a small red cone"


def test_words_are_taken_where_they_stand_first_and_others_come_there() -> None:
    (blue,), (red,) = in_place(LINE, ["dark blue"], ["red"])
    assert isinstance(blue, Placed)
    assert isinstance(red, Placed)
    assert red.line == LINE
    assert blue.line == "a large dark blue cube left of a small red cone"
    assert (str(red), str(blue)) == ("red", "dark blue")


def test_words_in_a_row_are_found_and_each_term_has_its_own_place() -> None:
    (blue, tiny), (_, small) = in_place(LINE, ["blue", "tiny"], ["red cube", "small"])
    assert isinstance(blue, Placed)
    assert isinstance(tiny, Placed)
    assert isinstance(small, Placed)
    assert blue.line == "a large blue left of a small red cone"
    assert (tiny.before, small.after) == ("a large red cube left of a", "red cone")


@pytest.mark.parametrize("minus", ["green", "red sphere", "cube left a", LINE])
def test_terms_that_are_not_words_of_the_line_stay_as_they_are(minus: str) -> None:
    plus, taken = in_place(LINE, ["blue"], [minus])
    assert (plus, taken) == (["blue"], [minus])
    assert not any(isinstance(own, Placed) for own in (*plus, *taken))


def test_what_is_added_without_anything_taken_stays_as_it_is() -> None:
    assert in_place(LINE, ["blue"], []) == (["blue"], [])


def test_only_their_own_tokens_have_features() -> None:
    text = Text(Text.Options.model_validate({"codec": {"name": "encoder", "layer": 0, "max_length": 12}}))
    (blue,), (red,) = text.in_place("a large red cube", ["blue"], ["red"])
    latent = text.encode(text.collate([blue, red, "a large red cube", "a large blue cube"]))
    assert latent.mask is not None
    assert latent.mask.sum(1).tolist() == [1, 1, 6, 6]
    place = latent.mask[0].nonzero().flatten().tolist()
    assert place == latent.mask[1].nonzero().flatten().tolist() == [3]
    added, taken, line, wanted = latent.mean
    assert bool((added[torch.arange(12) != 3] == 0).all())
    torch.testing.assert_close(line + added - taken, wanted)


def test_an_autoencoder_has_no_places() -> None:
    text = Text(Text.Options.model_validate({"codec": {"name": "autoencoder"}}))
    assert text.in_place("a red cube", ["blue"], ["red"]) == (["blue"], ["red"])
    assert not any(isinstance(own, Placed) for own in text.in_place("a red cube", ["blue"], ["red"])[1])
