"""The modality `image_latent` with every codec that needs no autoencoder."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow_plugins.image_latent import ImageLatent


def image_latent(**options: Any) -> ImageLatent:
    return ImageLatent(ImageLatent.Options.model_validate(options))


def pictures(count: int = 40, size: int = 32, seed: int = 0) -> list[np.ndarray]:
    """Smooth pictures with a little noise: neighbouring pixels agree, as in photographs."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / size
    made = []
    for _ in range(count):
        phase, turn = rng.uniform(0, 2 * np.pi, 3), rng.uniform(-12, 12, (2, 3))
        waves = np.sin(rows[..., None] * turn[0] + columns[..., None] * turn[1] + phase)
        made.append((128 + 100 * waves + rng.normal(0, 4, (size, size, 3))).clip(0, 255).astype(np.uint8))
    return made


# -- pixels --------------------------------------------------------------------------------------------------


def test_the_latent_of_pixels_is_the_picture() -> None:
    modality = image_latent(size=(32, 48), resize="stretch")
    assert str(modality.latent) == "grid 3x32x48"
    picture = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    batch = modality.collate([picture, picture[::-1]])
    assert batch["pixels"].shape == (2, 3, 32, 48)
    latent = modality.encode(batch)
    assert latent.std is None
    assert torch.equal(latent.mean, batch["pixels"])
    np.testing.assert_array_equal(modality.decode(latent.mean)[1], picture[::-1])


def test_collate_brings_pictures_of_any_size_together() -> None:
    white = [np.full((height, width, 3), 255, np.uint8) for height, width in [(1, 1), (16, 16), (99, 20)]]
    batch = image_latent(size=16).collate(white)
    assert batch["pixels"].shape == (3, 3, 16, 16)
    assert torch.equal(batch["pixels"], torch.ones(3, 3, 16, 16))


def test_pixels_have_nothing_to_fit() -> None:
    modality = image_latent()
    assert not modality.needs_fit
    assert (modality.fitted_state(), modality.fitted_facts()) == ({}, {})
    with pytest.raises(BridgeflowError, match="nothing to fit"):
        modality.fit(pictures(2))
    with pytest.raises(BridgeflowError, match="no fitted state"):
        modality.restore({"mean": torch.zeros(1)}, {})


def test_options_are_checked() -> None:
    assert image_latent(size=[8, 16]).latent.shape == (3, 8, 16)
    for wrong in (
        {"size": 0},
        {"resize": "fit"},
        {"codec": {"name": "vq"}},
        {"codec": {"name": "pca", "patch": 2, "components": 13}},
        {"codec": {"name": "pca", "whitening": 1.5}},
    ):
        with pytest.raises(ValidationError):
            image_latent(**wrong)


@pytest.mark.parametrize(
    ("codec", "size", "part"),
    [
        ({"name": "pca", "patch": 8}, (64, 60), "multiples of 8, such as 64x64"),
        ({"name": "kl", "channels": [8, 8, 8]}, (30, 64), "multiples of 4, such as 32x64"),
        ({"name": "tiny", "width": 8, "stages": 2}, (1, 2), "multiples of 2, such as 2x2"),
    ],
)
def test_a_size_that_does_not_suit_the_codec_is_refused(codec: Any, size: Any, part: str) -> None:
    with pytest.raises(UsageError, match=part) as error:
        image_latent(size=size, codec=codec)
    assert f"{size[0]}x{size[1]}" in str(error.value)


def test_the_modality_stays_frozen_inside_a_model_that_trains() -> None:
    parent = torch.nn.Sequential(image_latent(size=16, codec={"name": "tiny", "width": 8, "stages": 2}))
    parent.train()
    assert parent.training
    assert not any(module.training for module in parent[0].modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())


# -- files ---------------------------------------------------------------------------------------------------


def test_pictures_are_written_by_ending_and_read_back(tmp_path: Path) -> None:
    modality, picture = image_latent(), pictures(1)[0]
    for ending, tolerance, format in ((".png", 0, "PNG"), (".JPG", 12, "JPEG"), (".webp", 25, "WEBP")):
        path = tmp_path / "new" / "folder" / f"picture{ending}"
        assert modality.write(picture, path) == [path]
        assert Image.open(path).format == format
        assert np.abs(modality.read(path).astype(int) - picture).mean() <= tolerance / 3
        assert ending.lower() in modality.reads
    with pytest.raises(BridgeflowError, match=r"'\.xyz'.*\.png"):
        modality.write(picture, tmp_path / "picture.xyz")
    with pytest.raises(BridgeflowError, match="cannot be written"):
        modality.write(picture, tmp_path / "new" / "folder" / "picture.png" / "inner.png")


def test_the_preview_is_the_picture() -> None:
    picture = pictures(1)[0]
    preview = image_latent().preview(picture)
    assert preview.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(preview), picture)


# -- principal components ------------------------------------------------------------------------------------


def test_the_latent_is_known_before_fitting_and_encoding_asks_for_it() -> None:
    modality = image_latent(size=(32, 64), codec={"name": "pca", "patch": 8, "components": 5})
    assert str(modality.latent) == "grid 5x4x8"
    assert modality.needs_fit
    assert modality.fitted_state() == {}
    with pytest.raises(BridgeflowError, match="not been fitted"):
        modality.encode(modality.collate(pictures(1)))
    with pytest.raises(BridgeflowError, match="no pictures"):
        modality.fit([])


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_all_components_lose_nothing_at_any_whitening(whitening: float, patch: int) -> None:
    codec = {"name": "pca", "patch": patch, "components": 3 * patch * patch, "whitening": whitening}
    modality = image_latent(size=32, codec=codec)
    figures = modality.fit(pictures())
    assert figures["explained_variance"] == pytest.approx(1, abs=1e-9)
    assert figures["psnr"] > 80
    unseen = np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for picture in (*pictures(3, seed=9), unseen):
        decoded = modality.decode(modality.encode(modality.collate([picture])).mean)[0]
        assert np.abs(decoded.astype(int) - picture).max() <= 1


@pytest.mark.parametrize("whitening", [0.0, 0.3, 1.0])
def test_the_latent_has_unit_variance_and_no_mean(whitening: float) -> None:
    modality = image_latent(size=32, codec={"name": "pca", "components": 12, "whitening": whitening})
    items = pictures(9)
    modality.fit(items)
    latent = modality.encode(modality.collate(items)).mean
    assert latent.mean((0, 2, 3)).abs().max() < 1e-3
    assert latent.square().mean() == pytest.approx(1, abs=2e-3)
    variances = latent.var((0, 2, 3))
    assert (variances.max() / variances.min() < 1.01) == (whitening == 1)
    assert torch.equal(variances, variances.sort(descending=True).values) or whitening == 1
    components = latent.transpose(0, 1).flatten(1)
    correlation = torch.corrcoef(components)
    assert (correlation - torch.eye(12)).abs().max() < 0.01


def test_more_components_reconstruct_better() -> None:
    found = []
    for components in (1, 3, 6, 12, 24):
        modality = image_latent(size=32, codec={"name": "pca", "components": components})
        found.append(modality.fit(pictures()))
    for fewer, more in pairwise(found):
        assert fewer["psnr"] + 0.2 < more["psnr"]
        assert fewer["explained_variance"] < more["explained_variance"]
    assert found[0]["psnr"] < 20 < 27 < found[-1]["psnr"]


def test_psnr_is_that_of_the_pictures_held_out() -> None:
    items = pictures(20)
    modality = image_latent(size=32, codec={"name": "pca", "components": 6})
    figures = modality.fit(iter(items))
    held_out = modality.collate(items[9::10])["pixels"]
    decoded = modality.codec.decode(modality.encode({"pixels": held_out}).mean).clamp(-1, 1)
    error = ((decoded - held_out) / 2).square().mean()
    assert figures["psnr"] == pytest.approx(float(-10 * error.log10()), abs=1e-3)


def test_restoring_gives_the_same_latent_and_fingerprint_to_the_bit() -> None:
    options = {"size": 32, "codec": {"name": "pca", "components": 7}}
    fitted, other = image_latent(**options), image_latent(**options)
    before = fitted.fingerprint()
    fitted.fit(pictures())
    assert fitted.fingerprint() != before == other.fingerprint()
    other.restore({k: v.clone() for k, v in fitted.fitted_state().items()}, fitted.fitted_facts())
    assert not other.needs_fit
    assert other.fingerprint() == fitted.fingerprint()
    batch = fitted.collate(pictures(3, seed=4))
    assert torch.equal(fitted.encode(batch).mean, other.encode(batch).mean)
    refitted = image_latent(**options)
    refitted.fit(pictures())
    assert refitted.fingerprint() == fitted.fingerprint()
    refitted.fit(pictures(seed=1))
    assert refitted.fingerprint() != fitted.fingerprint()
    with pytest.raises(BridgeflowError, match="shapes"):
        image_latent(size=32, codec={"name": "pca", "components": 8}).restore(fitted.fitted_state(), {})


def test_pictures_of_one_colour_are_fitted_too() -> None:
    modality = image_latent(size=16, codec={"name": "pca", "components": 4, "whitening": 1.0})
    flat = [np.full((16, 16, 3), 90, np.uint8)] * 3
    modality.fit(flat)
    latent = modality.encode(modality.collate(flat)).mean
    assert latent.abs().max() < 1e-3
    assert set(np.unique(modality.decode(latent)[0])) == {90}


def test_fitting_reports_its_progress() -> None:
    seen: list[tuple[int, int, str]] = []
    modality = image_latent(size=32, codec={"name": "pca", "components": 3})
    modality.fit(pictures(12), lambda done, total, what: seen.append((done, total, what)))
    assert [done for done, _, what in seen if what == "reading pictures"] == list(range(1, 13))
    assert all(1 <= done <= total for done, total, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_mixed_precision_does_not_change_the_latent() -> None:
    modality = image_latent(size=32, codec={"name": "pca", "components": 12})
    modality.fit(pictures())
    batch = modality.collate(pictures(2, seed=3))
    plain = modality.encode(batch).mean
    with torch.autocast("cpu", torch.bfloat16):
        mixed = modality.encode(batch).mean
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)
