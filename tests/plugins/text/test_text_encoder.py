"""Frozen text encoders: tiny random ones of each family, and the installed all-MiniLM-L6-v2."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.text import Text, TextOptions

TEXTS = ["a small red sphere", "a large blue cube left of the red cone", "cone"]

Tiny = Callable[[str, Path], torch.nn.Module]


def text(**codec: object) -> Text:
    return Text(TextOptions.model_validate({"codec": {"name": "encoder", **codec}}))


def plain(encoder: torch.nn.Module, batch: dict[str, torch.Tensor], layer: int) -> torch.Tensor:
    """Features by one call of transformers on the fully padded batch, padding set to zero."""
    with torch.no_grad():
        output = encoder(**batch, output_hidden_states=True)
    states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return states * batch["attention_mask"][..., None]


@pytest.mark.parametrize("kind", ["clip", "clip_text", "t5", "bert"])
def test_features_are_those_of_transformers(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    encoder = tiny(kind, tmp_path)
    modality = text(path=str(tmp_path), max_length=12)
    assert modality.latent.shape == (12, 32)
    batch = modality.collate(TEXTS)
    assert batch["input_ids"].shape == (3, 12)
    assert batch["input_ids"][2].tolist() == [2, 10, 3] + [0] * 9
    latent = modality.encode(batch)
    torch.testing.assert_close(latent.mean, plain(encoder, batch, -1), atol=2e-5, rtol=1e-4)
    assert latent.mask is not None
    assert latent.mask.dtype == torch.bool
    assert latent.mask.sum(1).tolist() == [6, 11, 3]
    assert latent.mean[2, 3:].abs().max() == 0
    assert latent.mean[2, :3].std() > 0.1


@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
@pytest.mark.parametrize("layer", [0, 1, -2])
def test_layer_picks_a_hidden_state(kind: str, layer: int, tiny: Tiny, tmp_path: Path) -> None:
    encoder = tiny(kind, tmp_path)
    modality = text(path=str(tmp_path), max_length=12, layer=layer)
    batch = modality.collate(TEXTS)
    features = modality.encode(batch).mean
    torch.testing.assert_close(features, plain(encoder, batch, layer), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(features, plain(encoder, batch, -1), atol=1e-2)


def test_scale_multiplies_the_features(tiny: Tiny, tmp_path: Path) -> None:
    encoder = tiny("t5", tmp_path)
    modality = text(path=str(tmp_path), max_length=12, scale=10)
    batch = modality.collate(TEXTS)
    torch.testing.assert_close(modality.encode(batch).mean, 10 * plain(encoder, batch, -1), atol=2e-4, rtol=1e-4)


def test_features_do_not_depend_on_the_rest_of_the_batch(tiny: Tiny, tmp_path: Path) -> None:
    tiny("bert", tmp_path)
    modality = text(path=str(tmp_path), max_length=12)
    # More rows than are taken at a time, of mixed lengths.
    many = modality.encode(modality.collate(TEXTS * 15))
    alone = torch.cat([modality.encode(modality.collate([item])).mean for item in TEXTS])
    torch.testing.assert_close(many.mean, alone.repeat(15, 1, 1), atol=2e-5, rtol=1e-4)


def test_long_texts_are_cut(tiny: Tiny, tmp_path: Path) -> None:
    tiny("bert", tmp_path)
    batch = text(path=str(tmp_path), max_length=4).collate([TEXTS[1]])
    assert batch["input_ids"][0].tolist() == [2, 4, 6, 3]


def test_encoder_is_frozen_and_stays_in_evaluation_mode(tiny: Tiny, tmp_path: Path) -> None:
    tiny("bert", tmp_path)
    modality = text(path=str(tmp_path), max_length=12)
    before = torch.get_rng_state()
    batch = modality.collate(TEXTS)
    first = modality.encode(batch).mean
    assert torch.equal(torch.get_rng_state(), before)
    parent = torch.nn.ModuleList([modality]).train()
    assert not any(module.training for module in modality.modules())
    assert sum(1 for _ in modality.parameters()) > 20
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    # Dropout would show here.
    assert torch.equal(modality.encode(batch).mean, first)


def test_an_outer_autocast_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    tiny("bert", tmp_path)
    modality = text(path=str(tmp_path), max_length=12)
    batch = modality.collate(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        inside = modality.encode(batch).mean
    assert torch.equal(inside, modality.encode(batch).mean)


def test_fingerprint_follows_the_weights_behind_a_path(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("bert", tmp_path)
    before = text(path=str(tmp_path)).fingerprint()
    assert text(path=str(tmp_path)).fingerprint() == before
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight.mul_(1.01)
    model.save_pretrained(tmp_path)
    assert text(path=str(tmp_path)).fingerprint() != before


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ({"max_length": 17}, "at most 16 tokens"),
        ({"layer": 3}, "hidden states 0 to 2"),
        ({"layer": -4}, "hidden states 0 to 2"),
    ],
)
def test_options_that_the_encoder_cannot_meet(codec: dict[str, int], message: str, tiny: Tiny, tmp_path: Path) -> None:
    tiny("bert", tmp_path)
    with pytest.raises(BridgeflowError, match=message):
        _ = text(path=str(tmp_path), **{"max_length": 12, **codec}).latent


def test_folders_that_do_not_hold_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(BridgeflowError, match="does not exist"):
        _ = text(path=str(tmp_path / "none")).latent
    with pytest.raises(BridgeflowError, match=r"holds no config\.json"):
        _ = text(path=str(tmp_path)).latent
    (tmp_path / "config.json").write_text("{ broken")
    with pytest.raises(BridgeflowError, match="cannot be loaded"):
        _ = text(path=str(tmp_path)).latent


def test_weights_that_are_missing_or_incomplete(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("bert", tmp_path)
    weights = tmp_path / "model.safetensors"
    state = {n: t for n, t in model.state_dict().items() if "layer.1" not in n}
    model.save_pretrained(tmp_path, state_dict=state)
    modality = text(path=str(tmp_path), max_length=12)
    batch = modality.collate(TEXTS)
    with pytest.raises(BridgeflowError, match=r"lack 16 tensors.*layer\.1"):
        modality.encode(batch)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BridgeflowError, match="cannot be loaded"):
        modality.encode(batch)
    weights.unlink()
    with pytest.raises(BridgeflowError, match="weights as safetensors"):
        modality.encode(batch)


def test_a_hub_name_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BridgeflowError, match=r"'nobody/nothing' cannot be loaded .* check the name"):
        _ = text(path="nobody/nothing").latent


def test_an_encoder_cannot_be_a_target(tmp_path: Path) -> None:
    modality = text(path=str(tmp_path))
    assert not modality.needs_fit
    assert modality.fitted_state() == {}
    assert modality.fitted_facts() == {}
    with pytest.raises(BridgeflowError, match=r"codec\.name=autoencoder"):
        modality.decode(torch.zeros(1, 32, 32))
    with pytest.raises(BridgeflowError, match="nothing to fit"):
        modality.fit(["a"])


def test_installed_minilm_tells_meaning_apart_and_has_unit_variance() -> None:
    modality = text()
    assert modality.latent.shape == (32, 384)
    latent = modality.encode(
        modality.collate(
            [
                "A man is riding a bicycle down the street.",
                "Someone rides a bike along the road.",
                "The soup needs more salt and pepper.",
                "a small red sphere left of a large blue cube",
            ]
        )
    )
    assert latent.mask is not None
    assert latent.mean.shape == (4, 32, 384)
    assert 0.85 < float(latent.mean[latent.mask].std()) < 1.15
    pooled = latent.mean.sum(1) / latent.mask.sum(1, keepdim=True)
    similar, different = (torch.cosine_similarity(pooled[0], pooled[i], dim=0) for i in (1, 2))
    assert similar > different + 0.4
