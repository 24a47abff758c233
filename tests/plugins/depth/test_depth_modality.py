"""The depth modality: its latent, its mask, and the files it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import LatentSpec
from bridgeflow_plugins.depth import Depth, DepthOptions

NAN = float("nan")


def build(**options: Any) -> Depth:
    return Depth(DepthOptions.model_validate(options))


def scene(shape: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 12, shape).astype(np.float32)


def test_latent_is_known_from_the_options() -> None:
    assert build().latent == LatentSpec((3, 64, 64), "grid")
    assert build(size=[32, 48], channels=1).latent == LatentSpec((1, 32, 48), "grid")


def test_collate_gives_metres_with_zero_at_holes_and_an_honest_mask() -> None:
    depth = scene()
    depth[2, 3] = NAN
    batch = build(size=8).collate([depth, scene((16, 20))])
    assert batch["depth"].shape == batch["valid"].shape == (2, 1, 8, 8)
    assert batch["depth"].dtype == torch.float32
    assert batch["valid"].dtype == torch.bool
    assert batch["depth"][0, 0, 2, 3] == 0
    assert (~batch["valid"]).nonzero().tolist() == [[0, 0, 2, 3]]
    np.testing.assert_array_equal(batch["depth"][0, 0].numpy(), np.nan_to_num(depth))


@pytest.mark.parametrize("name", ["log", "inverse", "linear"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_decode_undoes_encode(name: str, channels: int) -> None:
    modality = build(size=8, channels=channels, normalisation={"name": name})
    latent = modality.encode(modality.collate([scene(), scene() + 2]))
    assert latent.mean.shape == (2, channels, 8, 8)
    assert latent.std is None
    assert latent.mask is not None
    assert latent.mask.shape == (2, 1, 8, 8)
    decoded = modality.decode(latent.mean)
    assert decoded[0].dtype == np.float32
    np.testing.assert_allclose(decoded[0], scene(), rtol=1e-4)
    np.testing.assert_allclose(decoded[1], scene() + 2, rtol=1e-4)


def test_channels_are_copies_and_decode_averages_them() -> None:
    modality = build(size=8)
    mean = modality.encode(modality.collate([scene()])).mean
    assert torch.equal(mean[:, 0], mean[:, 1])
    assert torch.equal(mean[:, 0], mean[:, 2])
    offset = torch.tensor([0.2, -0.1, -0.1]).view(1, 3, 1, 1)
    np.testing.assert_allclose(modality.decode(mean + offset)[0], scene(), rtol=1e-4)
    # The mean of -1, 0 and 1 is 0, the geometric mean of near and far.
    uneven = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    np.testing.assert_allclose(modality.decode(uneven)[0], np.sqrt(0.5 * 20), rtol=1e-5)


@pytest.mark.parametrize("name", ["log", "inverse", "linear", "affine"])
def test_a_map_without_any_measurement_is_finite_and_wholly_masked(name: str) -> None:
    modality = build(size=8, normalisation={"name": name})
    latent = modality.encode(modality.collate([np.full((5, 9), NAN, dtype=np.float32), scene()]))
    assert latent.mean.isfinite().all()
    assert latent.mask is not None
    assert latent.mask.flatten(1).sum(1).tolist() == [0, 64]


def test_relative_depth_decodes_to_above_zero_up_to_one() -> None:
    modality = build(size=8, normalisation={"name": "affine", "low": 0, "high": 100})
    depth = modality.decode(modality.encode(modality.collate([scene()])).mean)[0]
    expected = (scene() - scene().min()) / (scene().max() - scene().min())
    np.testing.assert_allclose(depth, expected, atol=2e-5)
    assert depth.min() > 0
    assert depth.max() == 1


def test_bfloat16_latents_decode() -> None:
    depth = build(size=8).decode(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16))[0]
    np.testing.assert_allclose(depth, np.sqrt(10), rtol=1e-5)


def test_one_file_where_the_ending_says_so(tmp_path: Path) -> None:
    modality = build(size=8)
    for ending in (".png", ".npy", ".pfm", ".exr", ".PNG"):
        path = tmp_path / ending[1:] / f"out{ending}"
        assert modality.write(scene(), path) == [path]
        assert list(path.parent.iterdir()) == [path]
        np.testing.assert_allclose(modality.read(path), scene(), atol=0.0006)


@pytest.mark.parametrize("name", ["out", "scene.v2"])
def test_three_files_without_an_ending(tmp_path: Path, name: str) -> None:
    modality = build(size=8)
    paths = modality.write(scene(), tmp_path / name)
    assert [path.name for path in paths] == [f"{name}.png", f"{name}.npy", f"{name}-colour.png"]
    np.testing.assert_allclose(modality.read(paths[0]), scene(), atol=0.0006)
    np.testing.assert_array_equal(modality.read(paths[1]), scene())
    with Image.open(paths[2]) as picture:
        assert (picture.mode, picture.size) == ("RGB", (8, 8))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(modality.preview(scene())))


def test_relative_depth_fills_the_png(tmp_path: Path) -> None:
    modality = build(size=2, normalisation={"name": "affine"})
    path = tmp_path / "relative.png"
    modality.write(np.array([[1 / 65535, 0.5], [1.0, NAN]], dtype=np.float32), path)
    with Image.open(path) as picture:
        assert np.asarray(picture).tolist() == [[1, 32768], [65535, 0]]


def test_a_foreign_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BridgeflowError, match=r"depth\.jpg: depth is not written as \.jpg: choose \.png"):
        build().write(scene(), tmp_path / "depth.jpg")
    assert not list(tmp_path.iterdir())


def test_png_scale_reads_and_writes(tmp_path: Path) -> None:
    path = tmp_path / "kitti.png"
    build(png_scale=1 / 256, normalisation={"name": "log", "far": 80}).write(np.full((2, 2), 80.0), path)
    with Image.open(path) as picture:
        assert np.asarray(picture)[0, 0] == 80 * 256
    assert build(png_scale=1 / 256).read(path)[0, 0] == 80


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"ends at 65\.53 m.*far is 80 m: take a png_scale of 0\.0013 or more"):
        build(normalisation={"name": "log", "far": 80})
    build(normalisation={"name": "log", "far": 80}, png_scale=0.0013)
    for wrong in (
        {"size": 0},
        {"size": [64]},
        {"resize": "pad"},
        {"channels": 0},
        {"png_scale": 0},
        {"sise": 64},
    ):
        with pytest.raises(ValidationError):
            build(**wrong)


def test_fingerprint_follows_the_options() -> None:
    assert build().fingerprint() == build().fingerprint()
    others = [{"size": 32}, {"channels": 1}, {"normalisation": {"name": "log", "far": 10}}, {"coverage": 0.0}]
    assert len({build().fingerprint(), *(build(**other).fingerprint() for other in others)}) == 5


def test_nothing_is_trained() -> None:
    modality = build()
    assert not list(modality.parameters())
    assert not modality.needs_fit
    assert modality.fitted_state() == {}
