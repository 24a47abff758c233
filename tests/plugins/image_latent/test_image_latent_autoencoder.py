"""Autoencoders as codecs: from a folder, and fitted to pictures."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow_plugins.image_latent import ImageLatent

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def kl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("kl")
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=5,
        scaling_factor=2.0,
    ).save_pretrained(folder)
    return folder


def image_latent(size: Any = 16, **codec: Any) -> ImageLatent:
    return ImageLatent(ImageLatent.Options.model_validate({"size": size, "codec": codec}))


def pictures(count: int = 24, size: int = 16) -> list[np.ndarray]:
    """A bright square of some colour on a dark ground."""
    rng = np.random.default_rng(0)
    made = np.full((count, size, size, 3), 30, np.uint8)
    for picture in made:
        top, left = rng.integers(0, size // 2, 2)
        picture[top : top + size // 2, left : left + size // 2] = rng.integers(60, 256, 3)
    return list(made)


# -- pretrained ----------------------------------------------------------------------------------------------


def test_a_kl_model_of_a_folder_gives_mean_and_std_in_its_own_scale(kl_folder: Path) -> None:
    from diffusers import AutoencoderKL

    modality = image_latent((16, 24), name="kl", path=str(kl_folder))
    assert str(modality.latent) == "grid 3x8x12"
    assert not modality.needs_fit
    assert (modality.fitted_state(), modality.fitted_facts()) == ({}, {})
    model = AutoencoderKL.from_pretrained(kl_folder, local_files_only=True).eval()
    batch = modality.collate(pictures(2))
    latent = modality.encode(batch)
    with torch.no_grad():
        posterior = model.encode(batch["pixels"]).latent_dist
        decoded = model.decode(posterior.mean).sample
    torch.testing.assert_close(latent.mean, (posterior.mean - 0.25) * 0.5)
    assert latent.std is not None
    torch.testing.assert_close(latent.std, posterior.std * 0.5)
    assert not torch.equal(latent.sample(), latent.mean)
    expected = ((decoded[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.abs(modality.decode(latent.mean)[0] - expected).max() <= 1


def test_a_tiny_model_of_a_folder_gives_a_mean_only(tiny_folder: Path) -> None:
    from diffusers import AutoencoderTiny

    modality = image_latent(16, name="tiny", path=str(tiny_folder))
    assert str(modality.latent) == "grid 5x4x4"
    model = AutoencoderTiny.from_pretrained(tiny_folder, local_files_only=True).eval()
    batch = modality.collate(pictures(2))
    latent = modality.encode(batch)
    assert latent.std is None
    with torch.no_grad():
        torch.testing.assert_close(latent.mean, model.encode(batch["pixels"]).latents * 2)
    assert modality.decode(latent.mean)[1].shape == (16, 16, 3)


def test_a_scale_of_ones_own_replaces_the_models(kl_folder: Path) -> None:
    batch = image_latent(name="pixels").collate(pictures(2))
    own = image_latent(name="kl", path=str(kl_folder), scale=3.0)
    models = image_latent(name="kl", path=str(kl_folder))
    torch.testing.assert_close(own.encode(batch).mean, models.encode(batch).mean * 6)
    decoded = [m.decode(m.encode(batch).mean)[0].astype(int) for m in (own, models)]
    assert np.abs(decoded[0] - decoded[1]).max() <= 1


def test_the_fingerprint_follows_the_weights_and_the_configuration(kl_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(kl_folder, tmp_path / "copy")
    first = image_latent(name="kl", path=str(folder)).fingerprint()
    assert image_latent(name="kl", path=str(folder)).fingerprint() == first
    assert image_latent(name="kl", path=str(kl_folder)).fingerprint() != first
    weights = load_file(folder / WEIGHTS)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 1}, folder / WEIGHTS)
    second = image_latent(name="kl", path=str(folder)).fingerprint()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.7}))
    third = image_latent(name="kl", path=str(folder)).fingerprint()
    assert len({first, second, third}) == 3


def test_pretrained_weights_are_neither_fitted_nor_restored(kl_folder: Path) -> None:
    modality = image_latent(name="kl", path=str(kl_folder))
    with pytest.raises(BridgeflowError, match="nothing to fit"):
        modality.fit(pictures())
    with pytest.raises(BridgeflowError, match="no fitted state"):
        modality.restore({"shift": torch.zeros(3, 1, 1)}, {"scale": 1.0})
    modality.restore({}, {})


def refusal(**codec: Any) -> str:
    with pytest.raises(BridgeflowError) as error:
        image_latent(**codec)
    message = str(error.value)
    assert message.startswith("codec.path: ")
    assert "\n" not in message
    return message


def test_a_missing_folder_is_named_with_what_to_give(tmp_path: Path) -> None:
    for path in (str(tmp_path / "gone"), "./gone", "~/gone", "some/folder/gone"):
        message = refusal(name="kl", path=path)
        assert f"no folder '{path}'" in message
        assert f"give a folder with config.json and {WEIGHTS}" in message


def test_folders_that_hold_no_such_model_are_named(kl_folder: Path, tmp_path: Path) -> None:
    assert "holds an AutoencoderKL where AutoencoderTiny" in refusal(name="tiny", path=str(kl_folder))
    assert "holds none that can be read" in refusal(name="kl", path=str(tmp_path))
    (tmp_path / "config.json").write_bytes((kl_folder / "config.json").read_bytes())
    assert "holds none that can be read" in refusal(name="kl", path=str(tmp_path))
    (tmp_path / WEIGHTS).write_bytes((kl_folder / WEIGHTS).read_bytes()[:1000])
    assert "holds none that can be read" in refusal(name="kl", path=str(tmp_path))
    weights = load_file(kl_folder / WEIGHTS)
    weights.pop("encoder.conv_in.weight")
    save_file(weights, tmp_path / WEIGHTS)
    assert "lack tensors of an AutoencoderKL, such as 'encoder.conv_in.weight'" in refusal(
        name="kl", path=str(tmp_path)
    )


def test_pickled_weights_are_not_loaded(kl_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((kl_folder / "config.json").read_bytes())
    torch.save(load_file(kl_folder / WEIGHTS), tmp_path / "diffusion_pytorch_model.bin")
    assert "holds none that can be read" in refusal(name="kl", path=str(tmp_path))


# -- pretrained, read when first needed ----------------------------------------------------------------------


def copy_of(folder: Path, copy: Path) -> Path:
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_a_factor_tells_the_latent_of_a_model_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    codec = {"name": "kl", "path": "nobody/nothing", "factor": 8, "scale": 0.2301}
    modality = image_latent(256, **codec)
    assert str(modality.latent) == "grid 4x32x32"
    assert not modality.needs_fit
    assert not list(modality.parameters())
    assert (modality.fitted_state(), modality.fitted_facts()) == ({}, {})
    with pytest.raises(UsageError, match="multiples of 8, such as 256x248"):
        image_latent((256, 250), **codec)
    for call in (
        lambda: modality.encode({"pixels": torch.zeros(1, 3, 256, 256)}),
        lambda: modality.decode(torch.zeros(1, 4, 32, 32)),
        modality.fingerprint,
    ):
        with pytest.raises(BridgeflowError, match="'nobody/nothing' is no folder, and the Hub cannot be reached"):
            call()


@pytest.mark.parametrize("first", ["encode", "decode", "fingerprint"])
def test_a_model_that_is_read_late_gives_the_same(first: str, kl_folder: Path) -> None:
    late = image_latent(name="kl", path=str(kl_folder), factor=2, latent_channels=3)
    early = image_latent(name="kl", path=str(kl_folder))
    assert late.latent == early.latent
    batch = early.collate(pictures(2))
    latent = early.encode(batch)
    assert latent.std is not None
    before = torch.get_rng_state()
    if first == "fingerprint":
        late.fingerprint()
    elif first == "decode":
        np.testing.assert_array_equal(late.decode(latent.mean), early.decode(latent.mean))
    found = late.encode(batch)
    assert found.std is not None
    assert torch.equal(found.mean, latent.mean)
    assert torch.equal(found.std, latent.std)
    assert torch.equal(torch.get_rng_state(), before)
    assert [name for name, _ in late.named_parameters()] == [name for name, _ in early.named_parameters()]
    assert list(late.state_dict()) == list(early.state_dict())
    assert not any(parameter.requires_grad for parameter in late.parameters())
    assert not any(module.training for module in late.modules())


def test_a_model_that_is_not_as_declared_is_refused_when_it_is_read(kl_folder: Path, tiny_folder: Path) -> None:
    for name, folder, declared, fix in (
        ("kl", kl_folder, {"factor": 2}, "set codec.latent_channels=3 and codec.factor=2"),
        ("kl", kl_folder, {"factor": 4, "latent_channels": 3}, "has 3 latent channels and 2 pixels per position"),
        ("tiny", tiny_folder, {"factor": 8, "latent_channels": 5}, "where 5 and 8 were declared"),
    ):
        modality = image_latent(name=name, path=str(folder), **declared)
        for _ in range(2):
            with pytest.raises(BridgeflowError) as error:
                modality.encode(modality.collate(pictures(1)))
            assert str(error.value).startswith(f"codec.path: {str(folder)!r} has ")
            assert fix in str(error.value)
        assert not list(modality.parameters())


def test_a_factor_needs_a_path() -> None:
    with pytest.raises(ValidationError, match="give its path too, or leave factor out"):
        image_latent(name="kl", factor=8)


@pytest.mark.parametrize("declared", [{}, {"factor": 2, "latent_channels": 3}], ids=["early", "late"])
def test_unloading_frees_the_weights_until_they_are_needed(declared: dict[str, int], kl_folder: Path) -> None:
    modality = image_latent(name="kl", path=str(kl_folder), **declared)
    modality.unload()
    assert not list(modality.parameters())
    shape = modality.latent
    batch = modality.collate(pictures(2))
    first, fingerprint = modality.encode(batch).mean, modality.fingerprint()
    decoded = modality.decode(first)
    weight = weakref.ref(max(modality.parameters(), key=torch.Tensor.numel))
    modality.unload()
    gc.collect()
    assert weight() is None
    assert not list(modality.parameters())
    assert (modality.latent, modality.needs_fit, modality.fingerprint()) == (shape, False, fingerprint)
    assert not list(modality.parameters())
    np.testing.assert_array_equal(modality.decode(first), decoded)
    assert torch.equal(modality.encode(batch).mean, first)


def test_the_fingerprint_is_taken_when_it_is_first_asked_for(kl_folder: Path) -> None:
    changed, plain = (image_latent(name="kl", path=str(kl_folder)) for _ in range(2))
    next(changed.parameters()).add_(1)
    assert changed.fingerprint() != plain.fingerprint()


def test_weights_are_read_onto_the_device_of_the_modality(kl_folder: Path) -> None:
    modality = image_latent(name="kl", path=str(kl_folder), factor=2, latent_channels=3)
    # A model elsewhere would refuse tensors of this device. The codec itself, since autocast knows no such device.
    modality.to("meta")
    for _ in range(2):
        mean, std = modality.codec.encode(torch.zeros(1, 3, 16, 16, device="meta"))
        assert std is not None
        assert (mean.device.type, std.device.type) == ("meta", "meta")
        assert mean.shape == (1, 3, 8, 8)
        assert {tensor.device.type for tensor in modality.state_dict().values()} == {"meta"}
        modality.unload()


@pytest.mark.parametrize("declared", [{}, {"factor": 2, "latent_channels": 3}], ids=["early", "late"])
def test_a_pipeline_gives_its_vae(declared: dict[str, int], kl_folder: Path, tmp_path: Path) -> None:
    copy_of(kl_folder, tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    pipeline = image_latent(name="kl", path=str(tmp_path), **declared)
    plain = image_latent(name="kl", path=str(kl_folder))
    batch = plain.collate(pictures(2))
    assert torch.equal(pipeline.encode(batch).mean, plain.encode(batch).mean)


def test_weights_stored_in_half_precision_are_computed_in_float32(kl_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(kl_folder, tmp_path / "half")
    save_file({name: t.half() for name, t in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    half, plain = (image_latent(name="kl", path=str(path)) for path in (folder, kl_folder))
    batch = plain.collate(pictures(2))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    torch.testing.assert_close(half.encode(batch).mean, plain.encode(batch).mean, atol=1e-2, rtol=0)


# -- fitted here ---------------------------------------------------------------------------------------------

SMALL = [
    {"name": "kl", "channels": [8, 16], "latent_channels": 3, "batch_size": 8, "learning_rate": 5e-3},
    {"name": "tiny", "width": 12, "stages": 2, "latent_channels": 3, "batch_size": 8, "learning_rate": 3e-3},
    {"name": "conv", "patch": 2, "widths": [16], "latent_channels": 3, "batch_size": 8, "learning_rate": 3e-3},
]


@pytest.mark.parametrize("codec", SMALL, ids=["kl", "tiny", "conv"])
def test_fitting_lowers_the_loss_and_brings_the_latent_to_unit_variance(codec: dict[str, Any]) -> None:
    items = pictures()
    short, long = (image_latent(**codec, steps=steps) for steps in (1, 80))
    assert str(long.latent) == "grid 3x8x8"
    assert long.needs_fit
    with pytest.raises(BridgeflowError, match="not been fitted"):
        long.encode(long.collate(items))
    seen: list[int] = []
    poor = short.fit(items)
    good = long.fit(items, lambda done, total, what: seen.append(done) if total == 80 else None)
    assert good["loss"] < 0.6 * poor["loss"]
    assert good["psnr"] > poor["psnr"] + 3
    assert seen == list(range(1, 81))
    latent = long.encode(long.collate(items))
    assert latent.mean.mean((0, 2, 3)).abs().max() < 0.2
    assert latent.mean.square().mean() == pytest.approx(1, abs=0.15)
    assert (latent.std is None) == (codec["name"] != "kl")
    assert not any(parameter.requires_grad for parameter in long.parameters())


@pytest.mark.parametrize("codec", SMALL, ids=["kl", "tiny", "conv"])
def test_a_fitted_model_is_restored_to_the_bit(codec: dict[str, Any]) -> None:
    fitted, other = (image_latent(**codec, steps=3) for _ in range(2))
    fitted.fit(pictures())
    facts = json.loads(json.dumps(fitted.fitted_facts()))
    assert codec["name"] == "conv" or facts["scale"] > 0
    other.restore({name: tensor.clone() for name, tensor in fitted.fitted_state().items()}, facts)
    other.unload()
    assert not other.needs_fit
    assert other.fingerprint() == fitted.fingerprint()
    batch = fitted.collate(pictures(4))
    a, b = fitted.encode(batch), other.encode(batch)
    assert torch.equal(a.mean, b.mean)
    np.testing.assert_array_equal(fitted.decode(a.mean), other.decode(b.mean))
    wider = image_latent(**{**codec, "latent_channels": 4})
    with pytest.raises(BridgeflowError, match="other layers"):
        wider.restore(fitted.fitted_state(), facts)


@pytest.mark.parametrize("codec", [SMALL[0], SMALL[2]], ids=["kl", "conv"])
def test_fitting_is_repeatable_and_leaves_the_global_generator_alone(codec: dict[str, Any]) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        modality = image_latent(**codec, steps=2)
        modality.fit(pictures())
        assert torch.equal(torch.get_rng_state(), before)
        states.append(modality.fitted_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_loss_that_is_not_finite_is_said() -> None:
    with pytest.raises(BridgeflowError, match=r"lower codec\.learning_rate"):
        image_latent(**{**SMALL[0], "learning_rate": 1e12}, steps=4).fit(pictures())
