"""Texts that are longer than a codec reads are counted and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgeflow_plugins.text import Text


def encoder(folder: Path, length: int) -> Text:
    return Text(Text.Options(codec={"name": "encoder", "path": str(folder), "max_length": length}))


SHORT = "a small red cube"
LONG = "a small red cube left of the large blue cone"


@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
def test_texts_beyond_an_encoder_are_told(kind: str, tiny: Callable[..., Any], tmp_path: Path) -> None:
    tiny(kind, tmp_path)
    (sentence,) = encoder(tmp_path, 8).advise(iter([SHORT, LONG, LONG]), "source")
    assert sentence.startswith(
        "2 of 3 texts have more than 8 tokens, special ones included, and what follows is not read"
    )
    assert "is read up to 'a small red cube left of'" in sentence
    assert "train with source.codec.max_length=12 to read more" in sentence
    # Eight tokens, two of them special.
    assert encoder(tmp_path, 8).advise([SHORT, "a small red cube left of"], "source") == []


def test_an_encoder_at_its_limit_is_not_said_to_take_more(tiny: Callable[..., Any], tmp_path: Path) -> None:
    tiny("clip", tmp_path)
    (sentence,) = encoder(tmp_path, 16).advise([f"{LONG} {LONG}"], "source")
    assert "takes no more, so take another with source.codec.path" in sentence
    assert "train with source.codec.max_length=16" in encoder(tmp_path, 8).advise([f"{LONG} {LONG}"], "source")[0]


def test_captions_beyond_an_autoencoder_are_told_before_it_is_fitted() -> None:
    text = Text(Text.Options(codec={"name": "autoencoder", "max_words": 5}))
    (sentence,) = text.advise([SHORT, LONG, "One, two, three."], "target")
    assert sentence.startswith("2 of 3 texts have more than 5 words and punctuation marks")
    assert "is read up to 'a small red cube left'" in sentence
    assert "target.codec.max_words=10" in sentence
    assert text.advise([SHORT], "target") == text.advise([], "target") == []


def test_a_file_of_several_lines_is_one_text_and_its_cut_is_told(tmp_path: Path) -> None:
    path = tmp_path / "photo.txt"
    path.write_text("a red cube\nleft of\na blue cone\n")
    text = Text(Text.Options(codec={"name": "autoencoder", "max_words": 3}))
    (sentence,) = text.advise([text.read(path)], "target")
    assert sentence.startswith("1 of 1 texts has more than 3 words")
    assert "'a red cube left of a blue cone' is read up to 'a red cube'" in sentence
