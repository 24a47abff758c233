"""What published text-to-image models ask of a text encoder: encoded padding, a declared width, bf16, pipelines."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.text import Text, TextOptions

TEXTS = ["a small red sphere", "a large blue cube left of the red cone", "cone"]

Tiny = Callable[[str, Path], torch.nn.Module]


def text(**codec: object) -> Text:
    return Text(TextOptions.model_validate({"codec": {"name": "encoder", "max_length": 12, **codec}}))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(BridgeflowError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# -- padding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "clip_text", "t5", "bert"])
def test_encoded_padding_is_what_the_encoder_gives_there(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    encoder = tiny(kind, tmp_path)
    encoded = text(path=str(tmp_path), padding="encoded", scale=10)
    zeroed = text(path=str(tmp_path), scale=10)
    batch = encoded.collate(TEXTS)
    with torch.no_grad():
        without, masked = (
            encoder(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state * 10
            for mask in (None, batch["attention_mask"])
        )
    a, b = encoded.encode(batch), zeroed.encode(batch)
    assert a.mask is not None
    assert b.mask is not None
    assert torch.equal(a.mask, b.mask)
    assert a.mask.sum(1).tolist() == [6, 11, 3]
    expected, other = (without, masked) if kind.startswith("clip") else (masked, without)
    torch.testing.assert_close(a.mean, expected, atol=2e-4, rtol=1e-4)
    # Whether a mask is given shows: at padding for CLIP, everywhere for the others.
    assert not torch.allclose(a.mean, other, atol=1e-2)
    torch.testing.assert_close(a.mean[a.mask], b.mean[b.mask], atol=2e-4, rtol=1e-4)
    assert float(a.mean[~a.mask].std()) > 1
    assert float(b.mean[~b.mask].abs().max()) == 0


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_encoded_padding_does_not_depend_on_the_rest_of_the_batch(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    tiny(kind, tmp_path)
    modality = text(path=str(tmp_path), padding="encoded")
    # More rows than are taken at a time, of mixed lengths, and a last part that is not full.
    many = modality.encode(modality.collate(TEXTS * 15))
    alone = torch.cat([modality.encode(modality.collate([item])).mean for item in TEXTS])
    torch.testing.assert_close(many.mean, alone.repeat(15, 1, 1), atol=2e-5, rtol=1e-4)


def test_padding_changes_the_fingerprint(tiny: Tiny, tmp_path: Path) -> None:
    tiny("clip", tmp_path)
    assert text(path=str(tmp_path)).fingerprint() != text(path=str(tmp_path), padding="encoded").fingerprint()


# -- width ---------------------------------------------------------------------------------------------------


def test_a_width_tells_the_latent_of_an_encoder_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    modality = text(path="nobody/nothing", width=4096, max_length=77)
    assert str(modality.latent) == "sequence 77x4096"
    assert len(modality.fingerprint()) == 16
    assert not list(modality.parameters())
    assert not modality.state_dict()
    message = refusal(lambda: modality.collate(TEXTS))
    assert "the text encoder 'nobody/nothing' cannot be loaded" in message
    assert "check the name, the connection to the hub" in message
    ids = torch.ones(1, 77, dtype=torch.int64)
    assert refusal(lambda: modality.encode({"input_ids": ids, "attention_mask": ids})) == message


def test_a_width_that_is_right_changes_no_feature(tiny: Tiny, tmp_path: Path) -> None:
    tiny("t5", tmp_path)
    declared, plain = text(path=str(tmp_path), width=32), text(path=str(tmp_path))
    assert declared.latent == plain.latent
    batch = plain.collate(TEXTS)
    assert torch.equal(declared.encode(batch).mean, plain.encode(batch).mean)


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ({"width": 64}, "has a hidden size of 32, but width is 64: set width to 32"),
        ({"width": 32, "max_length": 17}, "takes at most 16 tokens, but max_length is 17"),
        ({"width": 32, "layer": 3}, "has hidden states 0 to 2, but layer is 3"),
    ],
)
def test_an_encoder_that_is_not_as_declared_is_refused_when_it_is_read(
    codec: dict[str, int], message: str, tiny: Tiny, tmp_path: Path
) -> None:
    tiny("clip", tmp_path)
    modality = text(path=str(tmp_path), **codec)
    assert modality.latent.shape == (codec.get("max_length", 12), codec["width"])
    batch = modality.collate(TEXTS)
    for _ in range(2):
        assert message in refusal(lambda: modality.encode(batch))
    assert not list(modality.parameters())


# -- weights -------------------------------------------------------------------------------------------------


def test_unloading_frees_the_weights_until_they_are_needed(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("bert", tmp_path)
    modality = text(path=str(tmp_path))
    modality.unload()
    batch = modality.collate(TEXTS)
    first = modality.encode(batch).mean
    weight = weakref.ref(max(modality.parameters(), key=torch.Tensor.numel))
    shape = modality.latent
    modality.unload()
    gc.collect()
    assert weight() is None
    assert not list(modality.parameters())
    assert modality.latent == shape
    assert torch.equal(modality.encode(batch).mean, first)
    assert not any(module.training for module in modality.modules())
    assert not any(parameter.requires_grad for parameter in modality.parameters())
    modality.unload()
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight.mul_(1.5)
    model.save_pretrained(tmp_path)
    assert not torch.allclose(modality.encode(batch).mean, first, atol=1e-2)


def test_a_word_autoencoder_stays_when_unloaded() -> None:
    small = {"name": "autoencoder", "length": 2, "channels": 2, "width": 8, "layers": 1, "heads": 1, "steps": 1}
    modality = Text(TextOptions.model_validate({"codec": small}))
    modality.fit(TEXTS)
    before = modality.encode(modality.collate(TEXTS)).mean
    modality.unload()
    assert torch.equal(modality.encode(modality.collate(TEXTS)).mean, before)


def test_weights_are_read_onto_the_device_of_the_modality(tiny: Tiny, tmp_path: Path) -> None:
    tiny("clip", tmp_path)
    modality = text(path=str(tmp_path))
    modality.to("meta")
    for _ in range(2):
        # Loaded without encoding, since autocast knows no such device.
        modality.codec._load_network()
        assert {parameter.device.type for parameter in modality.parameters()} == {"meta"}
        modality.unload()


@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
@pytest.mark.parametrize("padding", ["zeroed", "encoded"])
def test_bf16_holds_the_weights_in_bf16_and_gives_float32(kind: str, padding: str, tiny: Tiny, tmp_path: Path) -> None:
    tiny(kind, tmp_path)
    exact, rounded = (text(path=str(tmp_path), padding=padding, precision=p) for p in ("fp32", "bf16"))
    batch = exact.collate(TEXTS)
    a, b = exact.encode(batch).mean, rounded.encode(batch).mean
    assert {p.dtype for p in exact.parameters()} == {torch.float32}
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    assert a.dtype == b.dtype == torch.float32
    error = float((a - b).std() / a.std())
    assert 1e-4 < error < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact.encode(batch).mean, a)
        assert torch.equal(rounded.encode(batch).mean, b)


def test_weights_stored_in_half_precision_are_computed_in_float32(tiny: Tiny, tmp_path: Path) -> None:
    tiny("bert", tmp_path).half().save_pretrained(tmp_path)
    modality = text(path=str(tmp_path))
    assert modality.encode(modality.collate(TEXTS)).mean.dtype == torch.float32
    assert {p.dtype for p in modality.parameters()} == {torch.float32}


# -- folders of diffusers pipelines --------------------------------------------------------------------------


def make_pipeline(folder: Path, tiny: Tiny) -> None:
    """Parts a saved encoder as a diffusers pipeline does."""
    tiny("clip_text", folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    for file in (folder / "text_encoder").glob("token*"):
        file.rename(folder / "tokenizer" / file.name)
    (folder / "model_index.json").write_text("{}")


def test_a_pipeline_gives_its_encoder_and_tokenizer(tiny: Tiny, tmp_path: Path) -> None:
    make_pipeline(tmp_path / "pipeline", tiny)
    tiny("clip_text", tmp_path / "plain")
    pipeline, plain = (text(path=str(tmp_path / name), padding="encoded") for name in ("pipeline", "plain"))
    assert pipeline.latent.shape == (12, 32)
    batch = pipeline.collate(TEXTS)
    assert torch.equal(batch["input_ids"], plain.collate(TEXTS)["input_ids"])
    assert torch.equal(pipeline.encode(batch).mean, plain.encode(batch).mean)


def test_the_fingerprint_of_a_pipeline_follows_both_its_parts(tiny: Tiny, tmp_path: Path) -> None:
    make_pipeline(tmp_path, tiny)
    seen = {text(path=str(tmp_path)).fingerprint()}
    for file in (tmp_path / "text_encoder" / "config.json", tmp_path / "tokenizer" / "tokenizer.json"):
        file.write_text(file.read_text() + " ")
        seen.add(text(path=str(tmp_path)).fingerprint())
    assert len(seen) == 3


def test_a_pipeline_without_its_tokenizer_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    tiny("clip_text", tmp_path / "text_encoder")
    assert "holds a text_encoder but no tokenizer" in refusal(lambda: text(path=str(tmp_path)).latent)
