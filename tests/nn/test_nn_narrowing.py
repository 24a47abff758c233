from __future__ import annotations

import pytest
import torch

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.narrowing import NarrowingSourceSettings, UnbiasedLayerNorm

SOURCE = LatentSpec((6, 32), "sequence")
TARGET = LatentSpec((4, 8, 8), "grid")
SMALL = {"depth": 1, "heads": 2, "hidden": 16, "narrowings": 2}


def texts(batch: int = 3) -> Latent:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.tensor([[6], [3], [2]][:batch])
    return Latent(torch.randn(batch, 6, 32, generator=generator), mask=mask)


def built(**changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return NarrowingSourceSettings.model_validate({**SMALL, **changes}).build(SOURCE, TARGET)


@pytest.mark.parametrize("tail", ["linear", "conv"])
@pytest.mark.parametrize("compress", [None, 16])
def test_it_gives_a_mean_a_variance_and_a_draw_in_the_targets_shape(tail: str, compress: int | None) -> None:
    encoder = built(tail=tail, compress=compress).eval()
    found = encoder(texts(), torch.Generator().manual_seed(3))
    assert found.z0.shape == found.mu.shape == found.logvar.shape == (3, 4, 8, 8)
    eps = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.z0, found.mu + (found.logvar / 2).exp() * eps)
    assert torch.equal(encoder(texts(), sample=False).z0, found.mu)


def test_a_set_sigma_has_no_variance_to_learn() -> None:
    noisy, fixed = built(sigma=0.5).eval(), built(sigma=0.0).eval()
    found = noisy(texts(), torch.Generator().manual_seed(3))
    assert found.logvar is None
    assert ((found.z0 - found.mu).std() - 0.5).abs() < 0.03
    still = fixed(texts())
    assert torch.equal(still.z0, still.mu)


def test_padding_is_no_key_but_is_read_where_it_stands() -> None:
    encoder = built().eval()
    with torch.no_grad():
        before = encoder.layers[0](texts().mean, texts().mask)
        changed = texts()
        changed.mean[1, 4] += 1.0
        after = encoder.layers[0](changed.mean, changed.mask)
        assert torch.equal(before[1, :4], after[1, :4])
        assert not torch.equal(before[1, 4], after[1, 4])
        assert not torch.equal(encoder(texts(), sample=False).mu[1], encoder(changed, sample=False).mu[1])


def test_the_norm_divides_by_the_unbiased_deviation() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    found = UnbiasedLayerNorm(4)(x)[0]
    assert found.tolist() == pytest.approx([(v - 3.0) / (14 / 3) ** 0.5 for v in (1, 2, 3, 6)], abs=1e-4)


def test_dropout_acts_in_training_alone() -> None:
    encoder = built(dropout=0.5)
    assert not torch.equal(encoder(texts(), sample=False).mu, encoder(texts(), sample=False).mu)
    encoder.eval()
    assert torch.equal(encoder(texts(), sample=False).mu, encoder(texts(), sample=False).mu)


@pytest.mark.parametrize(
    ("source", "target", "changes", "words"),
    [
        (TARGET, TARGET, {}, "takes a sequence"),
        (SOURCE, TARGET, {"narrowings": 6}, "cannot halve a width of 32"),
        (SOURCE, TARGET, {"heads": 5}, "cannot halve a width of 32"),
        (SOURCE, SOURCE, {"tail": "conv"}, "source_encoder.tail"),
    ],
)
def test_what_does_not_fit_is_refused(source: LatentSpec, target: LatentSpec, changes: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        NarrowingSourceSettings.model_validate({**SMALL, **changes}).build(source, target)
