"""Reading, writing and showing lines of text."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow_plugins.text import Text, TextOptions


@pytest.fixture
def modality() -> Text:
    return Text(TextOptions())


def test_declarations(modality: Text) -> None:
    assert Text.textual
    assert Text.reads == (".txt",)
    assert Text.writes == ".txt"
    assert modality.options.codec.name == "encoder"


def test_strings_and_bytes_are_the_text_itself(modality: Text) -> None:
    assert modality.read("  A red\n cube ") == "A red cube"
    assert modality.read("grün".encode()) == "grün"
    assert modality.read("no such file.txt") == "no such file.txt"
    assert modality.read("x" * 5000 + ".txt").endswith("x.txt")


def test_files_are_read_by_path_and_by_name(modality: Text, tmp_path: Path) -> None:
    file = tmp_path / "caption.txt"
    file.write_bytes(b"\xef\xbb\xbfa gr\xc3\xbcn\r\ncube\r\n")
    assert modality.read(file) == "a grün cube"
    assert modality.read(str(file)) == "a grün cube"
    other = tmp_path / "caption.caption"
    other.write_text("a cone")
    assert modality.read(other) == "a cone"
    assert modality.read(str(other)) == str(other)


def test_unreadable_files_are_named(modality: Text, tmp_path: Path) -> None:
    with pytest.raises(BridgeflowError, match=r"none\.txt' cannot be read: No such file"):
        modality.read(tmp_path / "none.txt")
    latin, empty = tmp_path / "latin.txt", tmp_path / "empty.txt"
    latin.write_bytes("grün".encode("latin-1"))
    empty.write_text(" \n")
    with pytest.raises(BridgeflowError, match=r"latin\.txt' is not UTF-8"):
        modality.read(latin)
    with pytest.raises(BridgeflowError, match=r"empty\.txt' is empty"):
        modality.read(str(empty))


@pytest.mark.parametrize("value", [["a", "b"], None, 3, {"text": "a"}])
def test_other_values_are_refused_by_type(modality: Text, value: object) -> None:
    with pytest.raises(BridgeflowError, match=f"not {type(value).__name__}"):
        modality.read(value)


def test_length_is_bounded(modality: Text) -> None:
    assert len(modality.read("x" * 10_000)) == 10_000
    with pytest.raises(BridgeflowError, match="10,001 characters"):
        modality.read("x" * 10_001)


def test_what_is_written_reads_the_same(modality: Text, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    assert modality.write("a grün cube", path) == [path]
    assert path.read_bytes() == "a grün cube\n".encode()
    assert modality.read(path) == "a grün cube"
    with pytest.raises(UsageError, match=r"ends in \.txt"):
        modality.write("a", tmp_path / "out.png")


def test_preview_shows_all_words_within_the_picture(modality: Text) -> None:
    short, long = "a red cube", " ".join(["word"] * 60) + " " + "x" * 80
    ink = []
    for item in (short, long):
        picture = modality.preview(item)
        assert picture.mode == "RGB"
        assert picture.size == (256, 256)
        pixels = np.asarray(picture)
        assert (pixels[:4] == 255).all()
        assert (pixels[:, -4:] == 255).all()
        assert (pixels[-4:] == 255).all()
        ink.append(int((pixels < 128).sum()))
    assert ink[0] > 200
    assert ink[1] > 5 * ink[0]


def test_options_belong_to_their_codec() -> None:
    with pytest.raises(ValidationError, match="steps"):
        TextOptions.model_validate({"codec": {"name": "encoder", "steps": 3}})
    with pytest.raises(ValidationError, match="noise"):
        TextOptions.model_validate({"codec": {"name": "autoencoder", "noise": -1}})
    assert TextOptions.model_validate({"codec": {"name": "autoencoder"}}).codec.length == 16
