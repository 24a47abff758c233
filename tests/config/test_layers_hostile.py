"""Recipes from strangers: nothing of theirs runs, and none is read for minutes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgeflow.config import layers, recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import LONGEST


def said(action: Callable[[], Any]) -> str:
    with pytest.raises(BridgeflowError) as caught:
        action()
    sentence = str(caught.value)
    assert len(sentence) <= LONGEST
    assert sentence.isprintable()
    return sentence


def bomb(line: str) -> str:
    first = "a: &a {x: 1}\n" if "<<" in line else "a: &a [x, x, x, x, x, x, x, x, x]\n"
    return first + "".join(
        f"{new}: &{new} " + line.format(", ".join([f"*{old}"] * 9)) + "\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor for the tag"),
        (bomb("[{}]"), "with its aliases written out it has more than 100,000 values"),
        (bomb("{{<<: [{}]}}"), "with its aliases written out it has more than 100,000 values"),
        ("&a [*a]", "with its aliases written out"),
        ("[" * 200_000, "values lie more than 32 deep"),
        ("a: " * 2, "mapping values are not allowed here"),
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ("a: !!timestamp junk", "holds a value that YAML cannot read"),
        ("a: " + "9" * 5000, "holds a value that YAML cannot read"),
        ("a: \0", "special characters are not allowed"),
        ("a:\n\tb: 1", "found character '\\t' that cannot start any token"),
        ("a: " + "b" * (1 << 20), "more than the 262,144"),
    ],
)
def test_hostile_yaml_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in said(lambda: layers.parse(text, "it"))
    assert not (tmp_path / "ran").exists()


def test_aliases_and_merge_keys_of_an_honest_recipe_are_read() -> None:
    assert layers.parse("a: &a {x: 1}\nb: {<<: *a, y: *a}", "it") == {"a": {"x": 1}, "b": {"x": 1, "y": {"x": 1}}}


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"a: \xe9", b"x" * 50_000_000], ids=["utf-16", "latin-1", "large"]
)
def test_recipe_file_that_is_no_recipe(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    assert str(file) in said(lambda: recipe.load(str(file)))


def test_recipe_that_is_a_pipe_a_device_or_a_name_beyond_the_systems_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml", "x" * 5000 + ".yaml", "a\0.yaml"):
        assert "no recipe file" in said(lambda name=name: recipe.load(str(tmp_path / name)))  # type: ignore[misc]


@pytest.mark.parametrize("text", ["training.steps=" + "b" * 100_000, "x" * 5000 + "=1", ".".join("a" * 5000) + "=1"])
def test_what_is_said_of_a_huge_override_is_short(text: str) -> None:
    said(lambda: recipe.load("depth/blocks", [text]))
