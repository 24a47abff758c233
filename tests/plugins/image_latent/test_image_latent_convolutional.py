"""The convolutional autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bridgeflow.assembly.codec_files import restore_codec, save_codec
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.image_latent import ImageLatent, convolutional
from bridgeflow_plugins.image_latent.modality import draw_picture

SMALL = {"name": "conv", "patch": 2, "widths": [16, 24], "latent_channels": 4, "batch_size": 8}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def modality(**codec: Any) -> ImageLatent:
    return ImageLatent(ImageLatent.Options.model_validate({"size": 16, "codec": {**SMALL, **codec}}))


def pictures(count: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [draw_picture(rng, (16, 16)) for _ in range(count)]


@pytest.mark.parametrize(
    ("patch", "widths", "shape"),
    [
        (1, [8], (4, 16, 16)),
        (2, [8], (4, 8, 8)),
        (3, [8], (4, 5, 5)),
        (4, [8, 8], (4, 2, 2)),
        (2, [8, 8, 8], (4, 2, 2)),
    ],
)
def test_patch_and_widths_give_the_latents_grid(patch: int, widths: list[int], shape: tuple[int, ...]) -> None:
    size = 15 if patch == 3 else 16
    own = ImageLatent(
        ImageLatent.Options.model_validate(
            {"size": size, "codec": {**SMALL, "patch": patch, "widths": widths, "steps": 1}}
        )
    )
    assert own.latent.shape == shape
    own.fit(pictures(4))
    latent = own.encode(own.collate(pictures(2)))
    assert latent.mean.shape == (2, *shape)
    assert own.decode(latent.mean)[0].shape == (size, size, 3)


def test_a_decoder_fitted_with_noise_forgives_a_latent_that_is_off() -> None:
    # Of one colour each: what the cells of a latent tell of it can be averaged.
    rng = np.random.default_rng(5)
    items = [np.broadcast_to(rng.integers(256, size=3, dtype=np.uint8), (16, 16, 3)).copy() for _ in range(40)]
    added = {}
    for noise in (0.0, 0.5):
        own = modality(noise=noise, steps=150, learning_rate=3e-3)
        own.fit(items)
        batch = own.collate(items)
        latent = own.encode(batch).mean
        off = latent + 0.5 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
        errors = []
        for given in (latent, off):
            drawn = torch.from_numpy(np.stack(own.decode(given))).permute(0, 3, 1, 2) / 127.5 - 1
            errors.append(float((drawn - batch["pixels"]).square().mean()))
        added[noise] = errors[1] - errors[0]
    assert 0 < added[0.5] < 0.7 * added[0.0]


def test_each_channel_of_the_latent_has_mean_zero_and_variance_one() -> None:
    own = modality(steps=30, learning_rate=3e-3)
    items = pictures(36)
    own.fit(items)
    kept = [item for place, item in enumerate(items) if place % 10 != 9]
    latent = own.encode(own.collate(kept)).mean
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latent.var((0, 2, 3), correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_fitting_in_bf16_comes_near_fitting_in_fp32() -> None:
    figures = {
        kind: modality(steps=60, learning_rate=3e-3, precision=kind).fit(pictures()) for kind in ("fp32", "bf16")
    }
    assert figures["bf16"]["psnr"] == pytest.approx(figures["fp32"]["psnr"], abs=1.5)


def test_auto_is_what_the_machine_is_quicker_with_and_says_nothing_of_what_a_codec_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    used, prints = [], []
    monkeypatch.setattr(convolutional, "minimise", lambda *given: used.append(given[-1]) or 0.0)
    for chosen in ("bf16", "fp32"):
        monkeypatch.setattr(convolutional, "choose_precision", lambda wanted, device, own=chosen: own)
        own, restored = modality(), modality()
        own.fit(pictures(12))
        save_codec(own, tmp_path / chosen, {})
        restore_codec(restored, tmp_path / chosen)
        prints += [own.fingerprint(), restored.fingerprint()]
    assert used == [True, False]
    assert len(set(prints)) == 1


def test_a_codec_of_an_older_recipe_serves_one_that_leaves_the_number_type_open(tmp_path: Path) -> None:
    before = modality(steps=1, precision="bf16")
    before.fit(pictures(4))
    save_codec(before, tmp_path / "codec", {})
    restore_codec(modality(steps=1), tmp_path / "codec")
    for other in ({"precision": "fp32"}, {"noise": 0.5}):
        with pytest.raises(BridgeflowError, match="was fitted with codec"):
            restore_codec(modality(**{"steps": 1, **other}), tmp_path / "codec")


def test_it_is_fitted_before_it_decodes() -> None:
    with pytest.raises(BridgeflowError, match="not been fitted"):
        modality().decode(torch.zeros(1, 4, 4, 4))
