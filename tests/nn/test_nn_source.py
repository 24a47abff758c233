"""Source encoders: shapes, what is drawn and what is not, padding, and rows that do not see each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.source import (
    DeterministicSourceSettings,
    DirectSourceSettings,
    LearnedSource,
    NoiseSourceSettings,
    NoisySourceSettings,
    SourceEncoder,
    VariationalSourceSettings,
)
from bridgeflow.runtime.randomness import generator

SIZE: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4}
SEQUENCE, GRID, OTHER = LatentSpec((5, 6), "sequence"), LatentSpec((3, 4, 8), "grid"), LatentSpec((2, 4, 4), "grid")
PAIRS = {
    "grid_to_grid": (GRID, OTHER, {"patch": 2, "target_patch": 4}),
    "sequence_to_grid": (SEQUENCE, GRID, {"target_patch": 2}),
    "grid_to_sequence": (GRID, SEQUENCE, {"patch": 4}),
    "sequence_to_sequence": (SEQUENCE, LatentSpec((7, 3), "sequence"), {}),
}
LEARNED = {
    "deterministic": DeterministicSourceSettings,
    "noisy": NoisySourceSettings,
    "variational": VariationalSourceSettings,
}


def build(name: str, pair: str, **options: Any) -> tuple[SourceEncoder, LatentSpec, LatentSpec]:
    source, target, patches = PAIRS[pair]
    torch.manual_seed(0)
    return LEARNED[name](**SIZE, **patches, **options).build(source, target).eval(), source, target


def latent(spec: LatentSpec, rows: int = 4, std: bool = False, mask: Tensor | None = None) -> Latent:
    random = torch.Generator().manual_seed(3)
    mean = torch.randn(rows, *spec.shape, generator=random)
    return Latent(mean, torch.full_like(mean, 0.5) if std else None, mask)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_source_has_the_shape_of_the_target(name: str, pair: str) -> None:
    encoder, source, target = build(name, pair)
    encoded = encoder(latent(source), generator(0))
    assert encoder.learned
    assert encoder.context is None
    assert encoded.z0.shape == (4, *target.shape)
    assert encoded.mu is not None
    assert encoded.mu.shape == encoded.z0.shape
    assert (encoded.logvar is not None) == (name == "variational")
    assert encoded.context is None
    for value in (encoded.z0, encoded.mu):
        assert value.dtype == torch.float32
        assert bool(torch.isfinite(value).all())


@pytest.mark.parametrize("name", LEARNED)
def test_the_mean_depends_on_every_source_value_and_on_nothing_drawn(name: str) -> None:
    encoder, source, _ = build(name, "sequence_to_grid")
    given = latent(source)
    given.mean.requires_grad_()
    mean = encoder(given, sample=False)
    torch.testing.assert_close(mean.z0, mean.mu, rtol=0, atol=0)
    torch.testing.assert_close(encoder(given, generator(9)).mu, mean.mu, rtol=0, atol=0)
    mean.z0.square().sum().backward()
    assert given.mean.grad is not None
    assert bool((given.mean.grad != 0).all())


@pytest.mark.parametrize("pair", ["sequence_to_grid", "grid_to_sequence"])
def test_the_order_of_the_source_counts(pair: str) -> None:
    encoder, source, _ = build("deterministic", pair)
    given = latent(source)
    axis = 1 if source.layout == "sequence" else 3
    turned = encoder(Latent(given.mean.roll(4, axis))).z0
    assert bool(((turned - encoder(given).z0).flatten(1).abs().amax(1) > 1e-3).all())


def test_a_deterministic_source_draws_nothing() -> None:
    encoder, source, _ = build("deterministic", "grid_to_grid")
    first, second = encoder(latent(source), generator(1)), encoder(latent(source), generator(2))
    torch.testing.assert_close(first.z0, second.z0, rtol=0, atol=0)
    torch.testing.assert_close(first.z0, first.mu, rtol=0, atol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_a_noisy_source_has_the_deviation_that_was_set(sigma: float) -> None:
    encoder, source, target = build("noisy", "grid_to_grid", sigma=sigma)
    with torch.no_grad():
        encoded = encoder(latent(source, rows=1024), generator(4))
    noise = (encoded.z0 - encoded.mu) / sigma
    assert float(noise.std()) == pytest.approx(1.0, abs=4 / (2 * noise.numel()) ** 0.5)
    assert float(noise.mean()) == pytest.approx(0.0, abs=4 / noise.numel() ** 0.5)
    assert noise[0].numel() == target.size


def test_a_variational_source_draws_with_its_own_deviation() -> None:
    encoder, source, _ = build("variational", "sequence_to_grid")
    row = latent(source, rows=1)
    with torch.no_grad():
        encoded = encoder(Latent(row.mean.expand(8192, -1, -1)), generator(5))
    assert encoded.logvar is not None
    assert encoded.mu is not None
    sigma = (0.5 * encoded.logvar[0]).exp()
    assert float(sigma.max() / sigma.min()) > 1.2
    torch.testing.assert_close(encoded.z0.std(0), sigma, rtol=0.04, atol=0)
    assert float(((encoded.z0.mean(0) - encoded.mu[0]) / sigma).abs().max()) < 4.5 / 8192**0.5


def test_a_stochastic_source_latent_is_sampled_only_when_asked() -> None:
    encoder, source, _ = build("deterministic", "sequence_to_grid")
    sampled = [encoder(latent(source, std=True), generator(seed)).z0 for seed in (1, 1, 2)]
    torch.testing.assert_close(sampled[0], sampled[1], rtol=0, atol=0)
    assert not torch.allclose(sampled[0], sampled[2], atol=1e-3)
    mean = encoder(latent(source, std=True), sample=False).z0
    torch.testing.assert_close(mean, encoder(latent(source)).z0, rtol=0, atol=0)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("pair", ["sequence_to_grid", "grid_to_sequence"])
def test_padding_does_not_reach_z0(name: str, pair: str) -> None:
    encoder, source, _ = build(name, pair)
    if source.layout == "sequence":
        mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4, [False] * 5])
        hidden = ~mask[:, :, None]
    else:
        mask = torch.ones(4, 1, 4, 8, dtype=torch.bool)
        mask[1:, :, :, 4:] = False
        hidden = ~mask
    given = latent(source, mask=mask)
    changed = Latent(given.mean + 50 * hidden, mask=mask)
    torch.testing.assert_close(encoder(changed, generator(6)).z0, encoder(given, generator(6)).z0)
    unmasked = (encoder(Latent(changed.mean)).mu - encoder(Latent(given.mean)).mu).flatten(1).abs().amax(1)
    assert (unmasked > 1e-3).tolist() == [False, True, True, True]


@pytest.mark.parametrize("name", LEARNED)
def test_a_batch_norm_keeps_every_dimension_of_mu_at_unit_deviation(name: str) -> None:
    encoder, source, _ = build(name, "grid_to_grid", mean_norm="batch")
    encoder.train()
    mu = encoder(latent(source, rows=256), generator(0)).mu
    torch.testing.assert_close(mu.mean(0), torch.zeros_like(mu[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(mu.std(0, correction=0), torch.ones_like(mu[0]), rtol=2e-3, atol=0)
    plain, _, _ = build(name, "grid_to_grid")
    raw = plain(latent(source, rows=256), generator(0)).mu
    torch.testing.assert_close(mu, (raw - raw.mean(0)) / raw.std(0, correction=0), rtol=0, atol=0.02)


def test_a_standardised_mean_has_the_deviation_that_is_asked_for() -> None:
    encoder, source, _ = build("noisy", "grid_to_grid", mean_norm="batch", mean_scale=0.25, sigma=1.0)
    encoder.train()
    encoded = encoder(latent(source, rows=256), generator(0))
    torch.testing.assert_close(encoded.mu.std(0, correction=0), torch.full_like(encoded.mu[0], 0.25), rtol=2e-3, atol=0)
    assert 0.9 < float((encoded.z0 - encoded.mu).detach().std()) < 1.1
    with pytest.raises(ValueError, match="mean_scale is for mean_norm=batch"):
        NoisySourceSettings(mean_scale=0.25)


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_source_can_be_attended_to(name: str) -> None:
    plain, source, _ = build(name, "sequence_to_grid")
    encoder, _, _ = build(name, "sequence_to_grid", attend=True)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 4)
    given = latent(source, std=True, mask=mask)
    assert plain(given, generator(1)).context is None
    assert encoder.context == source
    encoded = encoder(given, generator(1))
    torch.testing.assert_close(encoded.z0, plain(given, generator(1)).z0, rtol=0, atol=0)
    torch.testing.assert_close(encoded.context, given.sample(generator(1)), rtol=0, atol=0)
    assert encoded.context_mask.tolist() == mask.tolist()
    torch.testing.assert_close(encoder(given, sample=False).context, given.mean, rtol=0, atol=0)
    grid, of_grid, _ = build(name, "grid_to_grid", attend=True)
    assert grid.context == LatentSpec((8, 12), "sequence")
    assert grid(latent(of_grid)).context.shape == (4, 8, 12)


def test_a_batch_norm_refuses_to_train_on_one_row() -> None:
    encoder, source, _ = build("noisy", "grid_to_grid", mean_norm="batch")
    assert encoder(latent(source, rows=1)).z0.shape[0] == 1
    encoder.train()
    with pytest.raises(UsageError, match=r"training\.batch_size=2 or more"):
        encoder(latent(source, rows=1))


@pytest.mark.parametrize("name", [*LEARNED, "noise", "direct"])
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    if name in LEARNED:
        encoder, source, _ = build(name, "sequence_to_grid", mean_norm="batch")
    else:
        source = SEQUENCE
        settings = NoiseSourceSettings() if name == "noise" else DirectSourceSettings()
        encoder = settings.build(source, source)
    given = latent(source, std=True)
    together = encoder(given, [generator("row", n) for n in range(4)])
    for row in (0, 3):
        alone = encoder(given.rows(slice(row, row + 1)), [generator("row", row)])
        torch.testing.assert_close(alone.z0[0], together.z0[row], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.z0[0], encoder(given, [generator("row", n + 1) for n in range(4)]).z0[0])


def test_a_direct_source_is_the_latent_itself() -> None:
    encoder = DirectSourceSettings().build(GRID, GRID)
    given = latent(GRID, std=True)
    assert not encoder.learned
    torch.testing.assert_close(encoder(given, sample=False).z0, given.mean, rtol=0, atol=0)
    drawn = encoder(given, generator(7))
    torch.testing.assert_close(drawn.z0, given.sample(generator(7)), rtol=0, atol=0)
    assert drawn.mu is None
    assert drawn.context is None


def test_a_direct_source_refuses_another_shape() -> None:
    with pytest.raises(UsageError, match=r"source is grid 3x4x8 and the target grid 2x4x4: .*source_encoder\.name="):
        DirectSourceSettings().build(GRID, OTHER)


def test_a_noise_source_gives_its_source_as_context() -> None:
    encoder = NoiseSourceSettings(patch=2).build(GRID, OTHER)
    mask = torch.ones(4, 1, 4, 8, dtype=torch.bool)
    mask[:, :, :2, :2] = False
    given = latent(GRID, mask=mask)
    encoded = encoder(given, generator(8))
    assert encoder.context == LatentSpec((8, 12), "sequence")
    assert not encoder.learned
    assert encoded.z0.shape == (4, *OTHER.shape)
    assert encoded.context is not None
    assert encoded.context.shape == (4, 8, 12)
    torch.testing.assert_close(encoded.context[:, 1], given.mean[:, :, :2, 2:4].flatten(1), rtol=0, atol=0)
    assert encoded.context_mask is not None
    assert encoded.context_mask.tolist() == [[False] + [True] * 7] * 4


def test_a_noise_source_is_standard_normal_whatever_its_source() -> None:
    encoder = NoiseSourceSettings().build(SEQUENCE, OTHER)
    zeros, others = Latent(torch.zeros(1024, 5, 6)), Latent(torch.full((1024, 5, 6), 7.0))
    z0 = encoder(zeros, generator(9)).z0
    torch.testing.assert_close(encoder(others, generator(9)).z0, z0, rtol=0, atol=0)
    torch.testing.assert_close(encoder(zeros, generator(9), sample=False).z0, z0, rtol=0, atol=0)
    assert float(z0.std()) == pytest.approx(1.0, abs=0.015)
    assert float(z0.mean()) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("pair", ["grid_to_sequence", "sequence_to_sequence"])
def test_options_that_do_not_fit_are_refused_by_name(pair: str) -> None:
    source, target, patches = PAIRS[pair]
    with pytest.raises(UsageError, match=r"source_encoder\.target_patch is 2, but a sequence"):
        NoisySourceSettings(**SIZE, **{**patches, "target_patch": 2}).build(source, target)
    with pytest.raises(UsageError, match=r"source_encoder\.patch"):
        NoisySourceSettings(**SIZE, patch=3).build(source, target)
    with pytest.raises(UsageError, match=r"source_encoder\.heads must divide its width: 32 is no multiple of 5"):
        NoisySourceSettings(width=32, heads=5, **patches).build(source, target)


def test_convolutional_stem_reads_a_grid_row_by_row() -> None:
    settings = DeterministicSourceSettings(width=16, depth=1, heads=2, patch=4, stem="conv")
    encoder = settings.build(LatentSpec((3, 8, 16), "grid"), LatentSpec((5, 4), "sequence"))
    assert isinstance(encoder, LearnedSource)
    stem = encoder.encoder.embed
    z = torch.zeros(1, 3, 8, 16)
    # Seen by one token's convolutions alone; the others see it through the norm's statistics.
    z[0, :, 4:8, 8:9] = 5.0
    moved = (stem(z) - stem(torch.zeros_like(z))).abs().sum(-1)[0]
    assert moved.shape == (2 * 4,)
    assert moved.argmax() == 1 * 4 + 2, "rows of 4 tokens: the changed cells lie in row 1, column 2"
    assert encoder(Latent(z)).z0.shape == (1, 5, 4)


@pytest.mark.parametrize(
    ("latent", "patch"),
    [(LatentSpec((6, 8), "sequence"), 1), (LatentSpec((3, 9, 9), "grid"), 3), (LatentSpec((3, 8, 8), "grid"), 1)],
)
def test_convolutional_stem_refuses_what_it_cannot_halve(latent: LatentSpec, patch: int) -> None:
    settings = DeterministicSourceSettings(width=16, depth=1, heads=2, patch=patch, stem="conv")
    with pytest.raises(UsageError, match=r"source_encoder\.stem=conv takes a grid"):
        settings.build(latent, LatentSpec((5, 4), "sequence"))
