"""Words that come with data are never taken for the path of a file on this machine."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from streaming_tars import write_tar

from bridgeflow.data.files import Words, as_words
from bridgeflow.data.webdataset import WebDataset
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.depth import Depth
from bridgeflow_plugins.image_latent import ImageLatent
from bridgeflow_plugins.text import Text

NAMED = r"the data hold the words '.*' where {} was expected: put the file itself into the tar"


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
