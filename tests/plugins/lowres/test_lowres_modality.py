"""The modality `lowres` and its resampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow_plugins.image_latent import ImageLatent
from bridgeflow_plugins.image_latent.pixels import to_images, to_tensor
from bridgeflow_plugins.lowres import LowRes
from bridgeflow_plugins.lowres.resampling import degrade, enlarge


def lowres(**options: Any) -> LowRes:
    return LowRes(LowRes.Options.model_validate(options))


def picture(height: int, width: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (height, width, 3), dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    columns = np.arange(width)[None, :, None] + 2 * np.arange(height)[:, None, None]
    return np.broadcast_to(columns, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_linear_ramp_stays_one_and_keeps_its_place(factor: int) -> None:
    small = degrade(ramp(64, 96), factor).astype(float)
    assert small.shape == (64 // factor, 96 // factor, 3)
    # The centre of low pixel i lies at (i + 0.5) * factor - 0.5 of the picture.
    rows = (np.arange(64 // factor) + 0.5) * factor - 0.5
    columns = (np.arange(96 // factor) + 0.5) * factor - 0.5
    expected = 2 * rows[:, None] + columns[None, :]
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(small[inner][..., 0] - expected[inner]).max() <= 0.5


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarging_a_linear_ramp_keeps_it(factor: int) -> None:
    low = torch.from_numpy(ramp(16, 24)).permute(2, 0, 1)[None] / 127.5 - 1
    high = (enlarge(low, factor)[0, 0] + 1) * 127.5
    rows = (torch.arange(16 * factor) + 0.5) / factor - 0.5
    columns = (torch.arange(24 * factor) + 0.5) / factor - 0.5
    expected = 2 * rows[:, None] + columns[None, :]
    inner = np.s_[2 * factor : -2 * factor, 2 * factor : -2 * factor]
    assert (high[inner] - expected[inner]).abs().max() < 1e-2


def test_degrade_follows_torchs_antialiased_bicubic() -> None:
    image = picture(64, 48)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    expected = F.interpolate(pixels, (16, 12), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    assert np.abs(degrade(image, 4) - expected.clamp(0, 255).numpy()).max() <= 1.1


def test_enlarge_follows_pils_bicubic() -> None:
    # Levels far from black and white, since PIL clips between its two passes.
    image = picture(16, 12, 90, 160)
    expected = np.asarray(Image.fromarray(image).resize((48, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(to_images(enlarge(to_tensor([image]), 4))[0] - expected).max() <= 1


def test_what_exceeds_a_multiple_of_the_factor_is_cut_off_below_and_right() -> None:
    image = picture(67, 49)
    np.testing.assert_array_equal(degrade(image, 4), degrade(image[:64, :48].copy(), 4))


def test_a_picture_smaller_than_the_factor_is_refused() -> None:
    assert lowres(factor=4).degrade(picture(4, 4)).shape == (1, 1, 3)
    with pytest.raises(BridgeflowError, match="3x40 pixels cannot be made 4 times smaller"):
        lowres(factor=4).degrade(picture(3, 40))


@pytest.mark.parametrize(
    "codec", [{"name": "pixels"}, {"name": "pca", "patch": 8, "components": 20}, {"name": "tiny", "width": 8}]
)
def test_the_latent_has_the_targets_shape(codec: dict[str, Any]) -> None:
    target = ImageLatent(ImageLatent.Options.model_validate({"size": (32, 48), "codec": codec}))
    source = lowres(size=(32, 48), codec=codec)
    assert source.latent == target.latent
    assert source.low_size == (8, 12)
    assert source.collate([picture(8, 12)] * 2)["pixels"].shape == (2, 3, 32, 48)


def test_a_size_that_does_not_suit_the_factor_is_refused() -> None:
    with pytest.raises(UsageError, match=r"64x66 does not suit the factor 4.*such as 64x64"):
        lowres(size=(64, 66))


def test_the_batch_is_the_item_enlarged_and_clipped() -> None:
    source, item = lowres(size=32, factor=4), picture(8, 8)
    pixels = source.collate([item])["pixels"]
    assert torch.equal(pixels, enlarge(to_tensor([item]), 4))
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert torch.equal(source.encode({"pixels": pixels}).mean, pixels)


def test_items_of_another_size_are_fitted_first() -> None:
    fields = np.repeat(np.array([[[10] * 3, [120] * 3, [230] * 3]], np.uint8), 30, axis=0).repeat(30, axis=1)
    crop = lowres(size=32, factor=4).collate([fields])["pixels"]
    stretch = lowres(size=32, factor=4, resize="stretch").collate([fields])["pixels"]
    assert (crop[0, 0, 16, 4:-4] - (120 / 127.5 - 1)).abs().max() < 0.1
    assert stretch[0, 0, 16, 2] < -0.8 < 0.7 < stretch[0, 0, 16, -2]


def test_tiles_are_taken_at_their_own_size() -> None:
    source = lowres(size=32, factor=4, tile=20)
    assert (source.low_size, source.tile_size) == ((8, 8), (20, 20))
    assert (lowres(size=(32, 48)).tile_size, source.latent.shape) == ((8, 12), (3, 32, 32))
    tile = picture(20, 20)
    assert torch.equal(source.collate([tile, tile])["pixels"][1:], enlarge(to_tensor([tile]), 4))
    assert source.collate([picture(8, 8)])["pixels"].shape == (1, 3, 32, 32)
    assert source.collate([tile, picture(8, 8)])["pixels"].shape == (2, 3, 32, 32)


def test_a_tile_that_the_codec_does_not_take_is_refused() -> None:
    codec = {"name": "pca", "patch": 8, "components": 20}
    assert lowres(size=32, tile=10, codec=codec).tile_size == (10, 10)
    with pytest.raises(UsageError, match=r"source\.tile=9 gives tiles of 36 pixels.*'pca' takes multiples of 8"):
        lowres(size=32, tile=9, codec=codec)


def test_source_and_target_show_the_same_picture() -> None:
    coarse = np.random.default_rng(2).integers(40, 216, (8, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC))
    target = ImageLatent(ImageLatent.Options(size=32))
    source = lowres(size=32, factor=2)
    batch = source.collate([source.degrade(smooth)])["pixels"]
    error = ((batch - target.collate([smooth])["pixels"]) / 2).square().mean()
    assert -10 * error.log10() > 35


def test_a_fitted_codec_is_restored_from_the_targets_state() -> None:
    codec = {"name": "pca", "components": 48}
    target = ImageLatent(ImageLatent.Options.model_validate({"size": 32, "codec": codec}))
    source = lowres(size=32, codec=codec)
    target.fit([picture(32, 32)])
    source.restore(target.fitted_state(), target.fitted_facts())
    batch = source.collate([picture(8, 8)])
    assert torch.equal(source.encode(batch).mean, target.encode(batch).mean)
    decoded = source.decode(source.encode(batch).mean)[0].astype(int)
    assert np.abs(decoded - to_images(batch["pixels"])[0]).max() <= 1
    assert source.fingerprint() != lowres(size=32, codec=codec).fingerprint()


def test_the_fingerprint_follows_the_factor() -> None:
    assert lowres(factor=2).fingerprint() != lowres(factor=4).fingerprint()


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(picture(11, 7)).save(path)
    np.testing.assert_array_equal(lowres().read(path), picture(11, 7))
