"""Spans of a latent, and the source encoder that gives each token one of its own."""

from __future__ import annotations

import pytest
import torch

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.local import LocalSourceSettings, Spans
from bridgeflow.runtime.randomness import generator

WORDS, GRID = LatentSpec((5, 16), "sequence"), LatentSpec((3, 4, 4), "grid")


def words(rows: int = 3, real: int = 5) -> Latent:
    mask = torch.arange(5) < real
    return Latent(torch.randn(rows, 5, 16, generator=torch.Generator().manual_seed(1)), mask=mask.expand(rows, 5))


@pytest.mark.parametrize("latent", [GRID, LatentSpec((8, 6), "sequence")])
def test_spans_are_cut_and_joined(latent: LatentSpec) -> None:
    spans, z = Spans(latent, 5), torch.randn(2, *latent.shape)
    parts = spans.split(z)
    assert parts.shape == (2, 5, 9)
    again = spans.join(parts)
    kept = again != 0
    assert int(kept.sum()) == 2 * 45
    assert torch.equal(again[kept], z[kept])


def test_a_span_of_a_grid_is_of_neighbouring_cells() -> None:
    z = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert Spans(GRID, 8).split(z)[0, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_more_spans_than_values_are_refused() -> None:
    with pytest.raises(ValueError, match="49 spans of a latent of 48 values"):
        Spans(GRID, 49)


def test_a_token_changes_its_own_span_alone() -> None:
    encoder = LocalSourceSettings(sigma=0).build(WORDS, GRID)
    first = words()
    changed = first.mean.clone()
    changed[:, 2] = torch.randn(3, 16)
    spans = Spans(GRID, 5)
    before, after = (spans.split(encoder(own).z0) for own in (first, Latent(changed, mask=first.mask)))
    assert not torch.isclose(before[:, 2], after[:, 2]).any()
    assert torch.equal(before[:, [0, 1, 3, 4]], after[:, [0, 1, 3, 4]])


def test_mu_has_the_scale_that_is_set_and_the_noise_is_beside_it() -> None:
    target = LatentSpec((8, 16, 16), "grid")
    encoder = LocalSourceSettings(mean_scale=0.8, sigma=0.6).build(WORDS, target)
    drawn = encoder(words(64), generator(0))
    assert drawn.mu is not None
    assert float(Spans(target, 5).split(drawn.mu).std()) == pytest.approx(0.8, abs=0.05)
    assert float((drawn.z0 - drawn.mu).std()) == pytest.approx(0.6, abs=0.01)
    assert torch.equal(encoder(words(64), generator(0), sample=False).z0, drawn.mu)


def test_padding_has_no_mean() -> None:
    encoder = LocalSourceSettings().build(WORDS, GRID)
    mu = encoder(words(real=2), sample=False).z0
    spans = Spans(GRID, 5).split(mu)
    assert bool((spans[:, 2:] == 0).all())
    assert bool((spans[:, :2] != 0).all())


def test_nothing_is_learned_and_the_code_is_kept() -> None:
    encoder = LocalSourceSettings(sigma=0).build(WORDS, GRID)
    assert not encoder.learned
    assert not list(encoder.parameters())
    torch.manual_seed(99)
    other = LocalSourceSettings(sigma=0).build(WORDS, GRID)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(words()).z0, encoder(words()).z0)


def test_a_source_of_too_many_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match=r"64 tokens values of its own.*larger source_encoder.patch"):
        LocalSourceSettings().build(LatentSpec((1, 8, 8), "grid"), LatentSpec((2, 4, 4), "grid"))
