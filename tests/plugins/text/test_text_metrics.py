"""Figures of texts against texts, worked out by hand."""

import pytest

from bridgeflow_plugins.text.metrics import exact_match, token_f1


def test_exact_match_ignores_case_and_spaces_but_not_order() -> None:
    truths = ["a red cube", "a red cube", "a red cube", "a red cube"]
    assert exact_match(["A  red cube ", "red a cube", "a red", "a red cube"], truths) == 0.5


def test_token_f1_counts_repeated_words_once_per_occurrence() -> None:
    # Shared tokens: a, cube = 2 of 3 and 4: 2 * 2 / 7.
    assert token_f1(["a red cube"], ["a blue small cube"]) == pytest.approx(4 / 7)
    # "a a" shares one "a" with "a b": 2 * 1 / 4.
    assert token_f1(["a a"], ["a b"]) == pytest.approx(0.5)
    assert token_f1(["cube red a", "x"], ["a red cube", "y"]) == pytest.approx(0.5)


def test_empty_texts_and_no_texts() -> None:
    assert token_f1(["", ""], ["", "word"]) == pytest.approx(0.5)
    assert exact_match([], []) == 0.0
    assert token_f1([], []) == 0.0


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        exact_match(["a", "b"], ["a"])


def test_of_several_truths_the_best_counts() -> None:
    truths = [["a cone", "A red  cube"], ["a small cone", "a cone"], "a cone"]
    results = ["a red cube", "a small red cone", "a cube"]
    assert exact_match(results, truths) == pytest.approx(1 / 3)
    # 1; the better of 2 * 3 / 7 and 2 * 2 / 6; 2 * 1 / 4.
    assert token_f1(results, truths) == pytest.approx((1 + 6 / 7 + 1 / 2) / 3)
