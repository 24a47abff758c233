"""The word autoencoder: fitting, round trips, statistics, and what a checkpoint carries of it."""

import random
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.text import Text, TextOptions

SMALL = {"length": 6, "channels": 8, "width": 64, "layers": 1, "max_words": 12, "steps": 120}


def text(**codec: object) -> Text:
    return Text(TextOptions.model_validate({"codec": {"name": "autoencoder", **codec}}))


def captions(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)

    def thing() -> str:
        colour = draw.choice(["red", "green", "blue", "yellow", "grey"])
        return f"a {draw.choice(['small', 'large'])} {colour} {draw.choice(['sphere', 'cube', 'cone'])}"

    return [f"{thing()}, {draw.choice(['left', 'right'])} of {thing()}" for _ in range(count)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more than they gain by threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fitted() -> tuple[Text, dict[str, float], list[str]]:
    modality = text(**SMALL)
    torch.manual_seed(0)
    train = captions(1000, seed=1)
    figures = modality.fit(train)
    seen = set(train)
    unseen = [caption for caption in captions(700, seed=2) if caption not in seen][:300]
    assert len(unseen) == 300
    return modality, figures, unseen


def test_latent_shape_is_known_before_fitting() -> None:
    modality = text(length=5, channels=3)
    assert modality.latent.shape == (5, 3)
    assert modality.latent.layout == "sequence"
    assert modality.needs_fit


@pytest.mark.parametrize("step", ["collate", "encode", "decode"])
def test_use_before_fitting_says_how_to_fit(step: str) -> None:
    modality = text(length=5, channels=3)
    argument = {
        "collate": ["a"],
        "encode": {"words": torch.ones(1, 24, dtype=torch.int64)},
        "decode": torch.zeros(1, 5, 3),
    }[step]
    with pytest.raises(BridgeflowError, match="bridgeflow fit text --data D"):
        getattr(modality, step)(argument)


def test_unseen_captions_come_back_whole(fitted: tuple[Text, dict[str, float], list[str]]) -> None:
    modality, figures, unseen = fitted
    assert not modality.needs_fit
    latent = modality.encode(modality.collate(unseen))
    assert latent.mean.shape == (300, 6, 8)
    assert latent.std is None
    results = modality.decode(latent.mean)
    assert sum(a == b for a, b in zip(results, unseen, strict=True)) >= 0.99 * 300
    assert figures["exact"] >= 0.99
    assert figures["token_accuracy"] >= 0.999
    assert figures["truncated"] == 0


def test_decoding_forgives_noise_but_not_any_noise(
    fitted: tuple[Text, dict[str, float], list[str]],
) -> None:
    modality, figures, unseen = fitted
    latent = modality.encode(modality.collate(unseen)).mean
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))

    def exact(scale: float) -> float:
        results = modality.decode(latent + scale * noise)
        return sum(a == b for a, b in zip(results, unseen, strict=True)) / 300

    assert exact(0.2) >= 0.97
    assert figures["exact_with_noise"] >= 0.97
    assert exact(2.0) < 0.5


def test_latent_has_mean_zero_and_variance_one(
    fitted: tuple[Text, dict[str, float], list[str]],
) -> None:
    modality, _, _ = fitted
    latent = modality.encode(modality.collate(captions(1000, seed=1))).mean
    assert latent.mean((0, 1)).abs().max() < 0.1
    assert (latent.var((0, 1)) - 1).abs().max() < 0.1
    assert (latent.var(0) - 1).abs().max() < 0.15


def test_restored_codec_is_equal_bit_for_bit(
    fitted: tuple[Text, dict[str, float], list[str]],
) -> None:
    modality, _, unseen = fitted
    other = text(**SMALL)
    before = torch.get_rng_state()
    other.restore(modality.fitted_state(), modality.fitted_facts())
    assert torch.equal(torch.get_rng_state(), before)
    assert not other.needs_fit
    batch = other.collate(unseen)
    assert torch.equal(batch["words"], modality.collate(unseen)["words"])
    latent = other.encode(batch).mean
    assert torch.equal(latent, modality.encode(batch).mean)
    assert other.decode(latent) == modality.decode(latent)
    assert other.fingerprint() == modality.fingerprint()


def test_fingerprint_follows_vocabulary_and_tensors(
    fitted: tuple[Text, dict[str, float], list[str]],
) -> None:
    modality, _, _ = fitted
    state, facts = modality.fitted_state(), modality.fitted_facts()
    words = facts["vocabulary"]
    swapped = text(**SMALL)
    swapped.restore(state, {"vocabulary": [*words[:2], words[3], words[2], *words[4:]]})
    assert swapped.fingerprint() != modality.fingerprint()
    shifted = text(**SMALL)
    shifted.restore({**state, "mean": state["mean"] + 1e-3}, facts)
    assert shifted.fingerprint() != modality.fingerprint()


def test_state_of_other_options_is_refused(fitted: tuple[Text, dict[str, float], list[str]]) -> None:
    modality, _, _ = fitted
    other = text(**{**SMALL, "channels": 4})
    with pytest.raises(BridgeflowError, match="does not match its options"):
        other.restore(modality.fitted_state(), modality.fitted_facts())
    assert other.needs_fit


def test_latent_of_another_shape_is_refused(fitted: tuple[Text, dict[str, float], list[str]]) -> None:
    with pytest.raises(BridgeflowError, match=r"\(B, 6, 8\), not \(2, 4, 8\)"):
        fitted[0].decode(torch.zeros(2, 4, 8))


def test_unknown_words_show(fitted: tuple[Text, dict[str, float], list[str]]) -> None:
    modality, _, _ = fitted
    words = modality.collate(["a small purple cube, left of a large red cone"])["words"]
    assert modality.codec.vocabulary.decode(words[0].tolist()) == ("a small <unk> cube, left of a large red cone")


def test_fitted_codec_is_frozen_and_stays_in_evaluation_mode(
    fitted: tuple[Text, dict[str, float], list[str]],
) -> None:
    modality, _, _ = fitted
    parent = torch.nn.ModuleList([modality]).train()
    assert not any(module.training for module in modality.modules())
    assert sum(1 for _ in modality.parameters()) > 20
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    assert not modality.encode(modality.collate(["a red cone"])).mean.requires_grad


def test_five_captions_are_enough() -> None:
    five = ["a dog", "A cat, asleep!", "two birds on a wire", "rain", "the dog's bowl is empty"]
    modality = text(**{**SMALL, "steps": 120})
    seen: list[tuple[int, int]] = []
    with torch.no_grad():
        figures = modality.fit(iter(five), lambda done, total, what: seen.append((done, total)))
    assert seen[-1] == (120, 120)
    assert figures["exact"] == 1.0
    assert modality.decode(modality.encode(modality.collate(five)).mean) == [t.lower() for t in five]


def test_one_caption_gives_finite_latents() -> None:
    modality = text(**{**SMALL, "steps": 30})
    modality.fit(["a dog"])
    latent = modality.encode(modality.collate(["a dog", "a a"])).mean
    assert latent.isfinite().all()
    assert modality.decode(latent)[0] == "a dog"


def test_fitting_follows_the_seed_and_leaves_the_random_state() -> None:
    texts = captions(60, seed=4)
    fingerprints = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        modality = text(**{**SMALL, "steps": 3})
        modality.fit(texts)
        assert torch.equal(torch.get_rng_state(), before)
        fingerprints.append(modality.fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_cut_and_rare_words_are_counted() -> None:
    modality = text(**{**SMALL, "steps": 2, "max_words": 3, "min_count": 2})
    figures = modality.fit(["a b c d e", "a b", "a b c d"])
    # Cut: "d e" of the first text and "d" of the last.
    assert figures["truncated"] == 3
    assert figures["unknown"] == 0
    assert modality.fitted_facts()["vocabulary"] == ["<pad>", "<unk>", "a", "b", "c"]
    rare = text(**{**SMALL, "steps": 2, "min_count": 2})
    assert rare.fit(["a b x", "a b y"])["unknown"] == 2


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(BridgeflowError, match="no word to fit in 0 texts"):
        text(**SMALL).fit([])


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValidationError, match="multiple of heads"):
        text(width=66, heads=4)
