"""The dtype that `auto` comes to, and what is said to who asks for a slower one; on no particular processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from bridgeflow import registry
from bridgeflow.config import recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime import precision
from bridgeflow.runtime.console import Progress
from bridgeflow.runtime.precision import choose_precision, slower_than_float32, warn_of_slow_bf16
from bridgeflow.training import codecs as fitting
from bridgeflow.training import start

SENTENCE = "bf16 is 31 times slower than fp32 on this processor: set {}."


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "relative_time", lambda device_type: 31.4)


def timed(monkeypatch: pytest.MonkeyPatch, share: float) -> list[int]:
    """Products that take a millisecond in float32 and `share` of it in bfloat16; the sides of those that were timed."""
    sides: list[int] = []

    def seconds(matrix: torch.Tensor, image: torch.Tensor, kernel: torch.Tensor) -> float:
        sides.append(len(matrix))
        return 1e-3 * (share if matrix.dtype == torch.bfloat16 else 1.0)

    monkeypatch.setattr(precision, "_seconds", seconds)
    precision.relative_time.cache_clear()
    return sides


@pytest.mark.parametrize(("share", "chosen"), [(0.4, "bf16"), (0.9, "fp32"), (1.5, "fp32"), (30.0, "fp32")])
def test_auto_is_what_takes_less_and_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, share: float, chosen: str
) -> None:
    sides = timed(monkeypatch, share)
    assert choose_precision("auto", "cpu") == chosen
    taken = len(sides)
    assert choose_precision("auto", torch.device("cpu")) == chosen
    assert len(sides) == taken
    # Where bfloat16 is emulated, a product of a usual size takes as long as a step: the small ones say enough.
    assert (max(sides) == min(sides)) == (share == 30.0)
    precision.relative_time.cache_clear()


def test_measuring_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    precision.relative_time.cache_clear()
    assert precision.relative_time("cpu") > 0
    assert torch.get_num_threads() == before


def test_a_wish_is_granted_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = timed(monkeypatch, 30.0)
    assert [choose_precision(wanted, "cpu") for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert sides == []


@pytest.mark.parametrize("name", sorted({own for own, _, _ in registry.recipe_files()}))
def test_every_recipe_that_ships_leaves_training_and_fitting_to_the_machine(name: str) -> None:
    resolved = recipe.load(name)
    assert resolved.training.precision == "auto"
    assert getattr(getattr(resolved.target_options, "codec", None), "precision", "auto") == "auto"


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ([], None),
        (["training.precision=fp32", "target.codec.precision=fp32"], None),
        (["training.precision=bf16"], "training.precision=auto"),
        (["target.codec.precision=bf16"], "target.codec.precision=auto"),
        (
            ["training.precision=bf16", "source.codec.precision=bf16", "target.codec.precision=bf16"],
            "training.precision=auto and source.codec.precision=fp32 and target.codec.precision=auto",
        ),
    ],
)
def test_a_run_in_the_slower_type_says_so_in_one_sentence(
    slow: None, monkeypatch: pytest.MonkeyPatch, asked: list[str], keys: str | None
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Progress, "warn", lambda self, text: told.append(text))
    monkeypatch.setattr(start, "open_rows", lambda *_: (_ for _ in ()).throw(BridgeflowError("enough")))
    with pytest.raises(BridgeflowError, match="enough"):
        start.train(recipe.load("t2i/blocks", asked), "run", device="cpu")
    assert told == ([] if keys is None else [SENTENCE.format(keys)])


def test_a_fitted_codec_is_not_told_of(slow: None) -> None:
    resolved = recipe.load("t2i/blocks", ["target.codec.precision=bf16", "codecs.target=there"])
    assert sorted(start.computed_sections(resolved, fitted=False)) == ["source", "training"]
    assert sorted(start.computed_sections(resolved, fitted=True)) == ["training"]


def test_fit_says_so_too(slow: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[str] = []
    monkeypatch.setattr(Progress, "warn", lambda self, text: told.append(text))
    small = ["codec.name=conv", "codec.precision=bf16", "codec.steps=1", "codec.widths=[8]", "size=16"]
    for number in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
    data = f"folder:{tmp_path}"
    fitting.fit_codec("image_latent", data, small, None, 2, 0, tmp_path / "codec", Progress(quiet=True))
    assert told == [SENTENCE.format("codec.precision=auto")]


def test_a_device_without_units_is_named_and_one_with_them_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for ratio, begins in ((0.0, None), (1.1, None), (float("inf"), "this device has no units for bf16"), (1.5, "bf16")):
        monkeypatch.setattr(precision, "relative_time", lambda device_type, own=ratio: own)
        sentence = slower_than_float32("cuda", ["training.precision=auto"])
        assert sentence is None if begins is None else str(sentence).startswith(begins)


def test_nothing_is_measured_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = timed(monkeypatch, 30.0)
    warn_of_slow_bf16("cpu", pytest.fail, training=recipe.load("depth/blocks").training)
    assert sides == []
