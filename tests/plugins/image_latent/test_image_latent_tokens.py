"""The transformer autoencoder whose latent is a sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bridgeflow.assembly.codec_files import restore_codec, save_codec
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.image_latent import ImageLatent
from bridgeflow_plugins.image_latent.modality import draw_picture

SMALL = {"name": "tokens", "count": 6, "latent_channels": 4, "patch": 4, "width": 32, "depth": 1, "heads": 4}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def modality(size: Any = 16, **codec: Any) -> ImageLatent:
    return ImageLatent(ImageLatent.Options.model_validate({"size": size, "codec": {**SMALL, "steps": 1, **codec}}))


def pictures(count: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [draw_picture(rng, (16, 16)) for _ in range(count)]


def test_the_latent_is_a_sequence_and_pictures_come_back_in_their_size() -> None:
    own = modality(size=[16, 24])
    assert str(own.latent) == "sequence 6x4"
    own.fit(pictures(4))
    latent = own.encode(own.collate(pictures(2)))
    assert latent.mean.shape == (2, 6, 4)
    assert latent.std is not None
    assert (latent.std > 0).all()
    assert own.decode(latent.mean)[0].shape == (16, 24, 3)
    with pytest.raises(BridgeflowError, match=r"shape \(B, 6, 4\), not \(1, 5, 4\)"):
        own.decode(torch.zeros(1, 5, 4))


def test_it_learns_to_draw_what_it_has_seen() -> None:
    items = [
        np.broadcast_to(np.random.default_rng(n).integers(256, size=3, dtype=np.uint8), (16, 16, 3)) for n in range(40)
    ]
    found = {steps: modality(steps=steps, learning_rate=3e-3).fit(items)["psnr"] for steps in (5, 150)}
    assert found[150] > found[5] + 3


def test_draws_of_the_latent_have_mean_zero_and_variance_one() -> None:
    own = modality(steps=30, learning_rate=3e-3)
    items = pictures(36)
    own.fit(items)
    latent = own.encode(own.collate([item for place, item in enumerate(items) if place % 10 != 9]))
    assert latent.std is not None
    torch.testing.assert_close(latent.mean.mean((0, 1)), torch.zeros(4), atol=1e-4, rtol=0)
    variance = latent.mean.var((0, 1), correction=0) + latent.std.square().mean((0, 1))
    torch.testing.assert_close(variance, torch.ones(4), atol=1e-3, rtol=0)


def test_without_a_divergence_it_has_no_spread() -> None:
    own = modality(kl_weight=0)
    own.fit(pictures(4))
    assert own.encode(own.collate(pictures(2))).std is None


def test_where_a_thing_is_counts() -> None:
    own = modality()
    own.fit(pictures(4))
    left, right = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    left[:4, :4], right[:4, 12:] = 255, 255
    one, other = own.encode(own.collate([left, right])).mean
    assert float((one - other).abs().max()) > 1e-3


def test_it_is_kept_with_its_weights_and_fitted_before_it_encodes(tmp_path: Path) -> None:
    own, restored = modality(), modality()
    with pytest.raises(BridgeflowError, match="not been fitted"):
        own.encode(own.collate(pictures(1)))
    own.fit(pictures(4))
    save_codec(own, tmp_path / "codec", {})
    restore_codec(restored, tmp_path / "codec")
    batch = own.collate(pictures(2))
    assert torch.equal(own.encode(batch).mean, restored.encode(batch).mean)
    assert own.decode(own.encode(batch).mean)[0].tolist() == restored.decode(own.encode(batch).mean)[0].tolist()
    with pytest.raises(BridgeflowError):
        restore_codec(modality(width=16), tmp_path / "codec")
