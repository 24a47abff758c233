"""Words that come with data are never taken for the path of a file on this machine."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from streaming_tars import write_tar

from bridgeflow.data.files import Words, as_words
from bridgeflow.data.folder import Folder
from bridgeflow.data.hub import HubDataset
from bridgeflow.data.pairs import read_pair
from bridgeflow.data.rows import Stream
from bridgeflow.data.tar import Damage, members
from bridgeflow.data.webdataset import WebDataset, find_shards
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import LatentSpec, Modality
from bridgeflow.settings import Settings
from bridgeflow.task import Task
from bridgeflow_plugins.depth import Depth
from bridgeflow_plugins.image_latent import ImageLatent
from bridgeflow_plugins.text import Text

NAMED = r"the data hold the words '.*' where {} was expected: store the file itself in the data"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Files of this machine that a stranger would like to have read."""
    folder = tmp_path / "own"
    folder.mkdir()
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(folder / "picture.png")
    np.save(folder / "depth.npy", np.ones((8, 8), np.float32))
    (folder / "letter.txt").write_text("the secret")
    return folder


@pytest.mark.parametrize("wrap", [str, lambda path: {"path": path}], ids=["a string", "a mapping"])
def test_a_json_in_a_tar_opens_no_file(secrets: Path, tmp_path: Path, wrap: Any) -> None:
    fields = {
        "image": wrap(str(secrets / "picture.png")),
        "depth": wrap(str(secrets / "depth.npy")),
        "text": str(secrets / "letter.txt"),
    }
    tar = write_tar(tmp_path / "a.tar", [(f"{n}.json", json.dumps(fields).encode()) for n in range(2)])
    row = next(iter(WebDataset(shards=str(tar)).open("train").rows_from(0, 0)))
    with pytest.raises(BridgeflowError, match=NAMED.format("a picture")):
        ImageLatent(ImageLatent.Options()).read(row["image"])
    with pytest.raises(BridgeflowError, match=NAMED.format("a depth file")):
        Depth(Depth.Options()).read(row["depth"])
    assert Text(Text.Options()).read(row["text"]) == str(secrets / "letter.txt")


def test_words_are_strings_for_everything_else() -> None:
    words = as_words({"captions": ["a", "b"], "number": 3, "nested": {"own": "c"}})
    assert words == {"captions": ["a", "b"], "number": 3, "nested": {"own": "c"}}
    assert type(words["captions"][0]) is Words
    assert type(words["nested"]["own"]) is Words
    assert type(pickle.loads(pickle.dumps(words["captions"][1]))) is Words
    assert json.dumps(words) == '{"captions": ["a", "b"], "number": 3, "nested": {"own": "c"}}'


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_the_datasets_library_open_no_file(secrets: Path, tmp_path: Path, streaming: bool) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    fields = {"image": str(secrets / "picture.png"), "text": str(secrets / "letter.txt")}
    (folder / "train.jsonl").write_text("\n".join([json.dumps(fields)] * 30))
    rows = HubDataset(path=str(folder), streaming=streaming, held_out_rows=2).open("train")
    row = next(iter(rows.rows_from(0, 0))) if isinstance(rows, Stream) else rows[0]
    with pytest.raises(BridgeflowError, match=NAMED.format("a picture")):
        ImageLatent(ImageLatent.Options()).read(row["image"])
    assert Text(Text.Options()).read(row["text"]) == str(secrets / "letter.txt")


def test_a_name_that_begins_with_a_tilde_lies_in_the_folder(
    secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    line = {"file_name": "~/picture.png", "text": "~\\ud800.x"}
    (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    monkeypatch.setenv("HOME", str(secrets))
    monkeypatch.chdir(folder)
    row = Folder(path=".", held_out=0).open("train")[0]
    with pytest.raises(BridgeflowError, match=r"~/picture\.png does not exist"):
        ImageLatent(ImageLatent.Options()).read(row["image"])


def test_a_word_that_is_the_name_of_a_file_beside_is_a_word(
    secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    (secrets / "secret").write_bytes((secrets / "picture.png").read_bytes())
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "picture": "secret"}) + "\n")
    monkeypatch.chdir(secrets)
    row = Folder(path=str(folder), held_out=0).open("train")[0]
    with pytest.raises(BridgeflowError, match=NAMED.format("a picture")):
        ImageLatent(ImageLatent.Options()).read(row["picture"])


class Trusting(Modality):
    """A plugin whose author opens whatever a string names."""

    reads = (".wav",)
    column = "sound"

    @property
    def latent(self) -> LatentSpec:
        return LatentSpec((1, 1), "sequence")

    def read(self, value: Any) -> bytes:
        return Path(value["path"] if isinstance(value, dict) else value).read_bytes()

    collate = encode = preview = None  # type: ignore[assignment]


class Sounds(Task):
    columns: ClassVar[dict[str, str]] = {"sound": "a sound", "text": "its words"}

    def pair(self, row: Any, rng: Any) -> Any:
        return self.from_modality.read(row["sound"]), self.to_modality.read(row["text"])


@pytest.mark.parametrize("wrap", [str, lambda path: {"path": path}], ids=["a string", "a mapping"])
def test_a_plugin_that_opens_what_it_is_given_is_given_no_name_from_data(secrets: Path, wrap: Any) -> None:
    own = secrets / "own.WAV"
    own.write_bytes(b"sound")
    task = Sounds(Settings(), Trusting(Settings()), Text(Text.Options()))
    row = {"sound": own, "text": Words("own.wav")}
    assert read_pair(task, row, {}, 0, 0) == (b"sound", "own.wav")
    told = r"the column 'tone' holds '.*, a file's name: call the column 'tone_file_name'"
    with pytest.raises(BridgeflowError, match=told):
        read_pair(task, {"text": "a", "tone": as_words(wrap(str(own)))}, {"sound": "tone"}, 0, 0)


def test_a_hidden_member_of_a_tar_is_no_sample_and_endings_are_those_of_the_reader(tmp_path: Path) -> None:
    names = ["._a.jpg", "__MACOSX/a.jpg", "./.ipynb_checkpoints/a.jpg", "__MACOSX/._a.TXT"]
    names += ["./s/a.JFIF", "./s/a.TXT", "b.jpe", "b.Caption", "c.tga", "c.mask.JP2", "d.HEIC"]
    tar = write_tar(tmp_path / "a.TAR", [(name, b"x") for name in names])
    (tmp_path / "._a.tar").write_bytes(b"x")
    (tmp_path / "more").mkdir()
    assert find_shards(str(tmp_path), "shards") == [str(tar)]
    other = write_tar(tmp_path / "more" / "b.tar", [("a.png", b"x")])
    rows = list(WebDataset(shards=str(other), held_out=str(tmp_path)).open("held_out").rows_from(0, 0))
    kept = {next(iter(row.values()))["path"].rpartition("/")[2]: row for row in rows if isinstance(row, dict)}
    assert {name: sorted(row) for name, row in kept.items()} == {
        "a.JFIF": ["image", "text"],
        "b.jpe": ["image", "text"],
        "c.tga": ["image", "mask"],
        "d.HEIC": ["image"],
    }
    with pytest.raises(BridgeflowError, match=r"d\.HEIC is not a picture of a known format"):
        ImageLatent(ImageLatent.Options()).read(kept["d.HEIC"]["image"])


def test_sizes_that_cannot_be_end_a_tar(tmp_path: Path) -> None:
    def header(name: bytes, size: bytes, kind: bytes) -> bytes:
        own = bytearray(512)
        own[: len(name)] = name
        own[124:136] = size.ljust(12, b"\0")
        own[156:157] = kind
        own[148:156] = b" " * 8
        own[148:156] = b"%06o\0 " % sum(own)
        return bytes(own)

    negative = header(b"x.txt", b"-1000", b"0") + b"\0" * 1024
    with pytest.raises(Damage, match=r"has a member of -512 bytes"):
        list(members(io.BytesIO(negative), len(negative)))
    record = "14 size=\u00b2\n".encode()
    odd = header(b"p", b"%011o" % len(record), b"x") + record.ljust(512, b"\0") + header(b"x.txt", b"1", b"0")
    odd += b"a".ljust(512, b"\0") + b"\0" * 1024
    assert [member.size for member in members(io.BytesIO(odd), len(odd))] == [1]
    # A folder of many bytes is skipped without being held.
    large = header(b"folder/", b"%011o" % (64 << 20), b"5")

    class Zeros(io.RawIOBase):
        left = 64 << 20
        most = 0

        def read(self, count: int = -1) -> bytes:
            self.most = max(self.most, count)
            part = min(count, self.left)
            self.left -= part
            return bytes(part)

    body = Zeros()

    class Joined:
        def __init__(self) -> None:
            self.parts = [io.BytesIO(large), body, io.BytesIO(b"\0" * 1024)]

        def read(self, count: int) -> bytes:
            for part in self.parts:
                found = part.read(count)
                if found:
                    return found
            return b""

    assert list(members(Joined())) == []  # type: ignore[arg-type]
    assert body.most <= 1 << 20
