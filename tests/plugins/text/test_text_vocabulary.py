"""Splitting texts into word tokens and putting them together again."""

import pytest

from bridgeflow_plugins.text.vocabulary import (
    PAD,
    PAD_ID,
    UNKNOWN,
    UNKNOWN_ID,
    Vocabulary,
    detokenise,
    normalise,
    tokenise,
)

TEXTS = [
    "a small red sphere left of a large blue cube",
    "Two dogs, one cat;  and (perhaps) a t-shirt!",
    "the dog's bowl isn't here... or is it?",
    "\"Hello,\" she said -- 'well', 3.14 & 50% of $20, e-mail me: a_b@c.org/d#e",
    "  spaces\tand\nlines  ",
    "## <pad> <unk> ##a # # ##",
    "Übergröße, naïve cafe\u0301, ΑΣ, İstanbul, 你好,世界!",
    "emoji 👩‍🚀 and 🇩🇪",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_rejoin_to_the_normalised_text(text: str) -> None:
    assert detokenise(tokenise(text)) == normalise(text)


def test_tokens_are_words_and_single_marks() -> None:
    assert tokenise("A dog's bowl, (empty).") == [
        *("a", "dog", "##'", "##s", "bowl", "##,"),
        *("(", "##empty", "##)", "##."),
    ]


def test_normalise_is_lower_case_composed_and_single_spaced() -> None:
    assert normalise(" A  Cafe\u0301\n") == "a caf\u00e9"


def test_reserved_names_in_a_text_are_ordinary_tokens() -> None:
    assert PAD not in tokenise("<pad> <unk>")
    assert UNKNOWN not in tokenise("<pad> <unk>")


def test_vocabulary_is_in_order_of_frequency_then_alphabet() -> None:
    vocabulary = Vocabulary.of(["b a", "c b", "b a d"])
    assert vocabulary.words == (PAD, UNKNOWN, "b", "a", "c", "d")


def test_vocabulary_keeps_frequent_words_and_is_capped() -> None:
    texts = ["b a", "c b", "b a d"]
    assert Vocabulary.of(texts, min_count=2).words[2:] == ("b", "a")
    assert Vocabulary.of(texts, size=3).words == (PAD, UNKNOWN, "b")


def test_numbers_are_padded_cut_and_unknown() -> None:
    vocabulary = Vocabulary.of(["b a", "b"])
    assert vocabulary.encode("A b", 4) == [3, 2, PAD_ID, PAD_ID]
    assert vocabulary.encode("b b a a", 3) == [2, 2, 3]
    assert vocabulary.encode("b zebra", 3) == [2, UNKNOWN_ID, PAD_ID]


def test_decoding_ends_at_the_first_padding_and_shows_unknown_words() -> None:
    vocabulary = Vocabulary.of(["b, a", "b"])
    comma = vocabulary.words.index("##,")
    assert vocabulary.decode([2, comma, UNKNOWN_ID, PAD_ID, 2]) == "b, <unk>"
    assert vocabulary.decode([PAD_ID, 2]) == ""


def test_vocabulary_without_its_reserved_words_is_refused() -> None:
    with pytest.raises(ValueError, match="starts with"):
        Vocabulary(("a", "b"))
