"""What a codec is fitted to, apart from training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.console import Progress
from bridgeflow.training import codecs as fitting
from bridgeflow_plugins.text import Text


@pytest.fixture
def fitted_to(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions that a fit was given; the fitting itself is left out."""
    given: list[str] = []

    def fit(self: Text, items: Iterable[str], progress: Any = None) -> dict[str, float]:
        given.extend(items)
        return {}

    monkeypatch.setattr(Text, "fit", fit)
    monkeypatch.setattr(fitting, "save_codec", lambda *given: None)
    return given


def fit(folder: Path, count: int = 100) -> fitting.Fitted:
    data = f"folder:{folder / 'photos'}"
    return fitting.fit_codec("text", data, [], None, count, 0, folder / "codec", Progress(quiet=True))


def write(folder: Path, captions: list[Any]) -> None:
    (folder / "photos").mkdir()
    lines = []
    for number, own in enumerate(captions):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(folder / "photos" / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": own}) + "\n")
    (folder / "photos" / "metadata.jsonl").write_text("".join(lines))


@pytest.mark.parametrize("bad", [None, "", "   "])
def test_captions_are_drawn_among_those_that_can_be_read(tmp_path: Path, fitted_to: list[str], bad: Any) -> None:
    write(tmp_path, [[bad, f"a{n}", bad] for n in range(10)] + [[bad, bad]])
    found = fit(tmp_path)
    # One of ten rows is held out.
    assert found.examples + len(found.unreadable) == 10
    assert len(fitted_to) == found.examples >= 9
    assert set(fitted_to) <= {f"a{n}" for n in range(10)}
    assert all("10.png" in sentence for sentence in found.unreadable)


def test_as_many_examples_as_asked_for_are_those_that_can_be_read(tmp_path: Path, fitted_to: list[str]) -> None:
    write(tmp_path, [None if n % 2 else f"a{n}" for n in range(40)])
    assert fit(tmp_path, 8).examples == 8
    assert len(fitted_to) == 8


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path, fitted_to: list[str]) -> None:
    write(tmp_path, [[None, ""]] * 3)
    with pytest.raises(BridgeflowError, match=r"^no row of 2 rows in .* can be read: .*png: "):
        fit(tmp_path)
