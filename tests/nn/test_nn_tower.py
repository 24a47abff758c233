from __future__ import annotations

import pytest
import torch

from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dimr import DiMRSettings
from bridgeflow.nn.tower import MLPHead, TimmTower, TimmTowerSettings

TARGET = LatentSpec((4, 8, 8), "grid")
SOURCE = LatentSpec((6, 32), "sequence")
TIMM = {"name": "timm", "model": "test_vit", "size": 64}


def bridge(**encoding: object) -> Bridge:
    torch.manual_seed(0)
    settings = BridgeSettings.model_validate(
        {
            "source_encoder": {"name": "narrowing", "depth": 1, "heads": 2, "hidden": 16, "narrowings": 2},
            "encoding": encoding if "name" in encoding else {"name": "cross", "logit_scale": "raw", **encoding},
            "kl": {"weight": 1e-2, "form": "free_mean"},
            "null_rate": 0.5,
        }
    )
    stages = [{"width": 16, "hidden": 16, "heads": 2, "blocks": 1, "patch": 2}, {"kind": "convnext", "width": 8}]
    return Bridge(settings, DiMRSettings.model_validate({"stages": stages}), SOURCE, TARGET)


def pair(batch: int = 4, pixels: int | None = 64) -> tuple[Latent, Latent]:
    observed = None if pixels is None else torch.rand(batch, 3, pixels, pixels) * 2 - 1
    return Latent(torch.randn(batch, 6, 32)), Latent(torch.randn(batch, 4, 8, 8), observed=observed)


def test_the_head_activates_before_it_normalises() -> None:
    head = MLPHead(8, 16)
    with torch.no_grad():
        head.norm.weight.fill_(2.0)
        inner = torch.nn.functional.gelu(head.linear_in(torch.ones(1, 8)))
        normal = (inner - inner.mean()) / (inner.var(unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(head(torch.ones(1, 8)), head.linear_out(2 * normal))


@pytest.mark.parametrize("head", ["mlp", "conv"])
def test_pixels_of_any_size_become_a_vector_of_the_targets_size(head: str) -> None:
    tower = TimmTower(TimmTowerSettings.model_validate({**TIMM, "head": head}), TARGET).eval()
    with torch.no_grad():
        large = tower(torch.rand(2, 3, 128, 96))
        assert large.shape == (2, 256)
        grey = tower(torch.zeros(1, 3, 64, 64))
        torch.testing.assert_close(tower(torch.zeros(1, 3, 128, 128)), grey, atol=1e-4, rtol=1e-4)


def test_the_loss_with_an_image_tower_trains_every_part() -> None:
    model = bridge(tower=TIMM)
    assert model.needs_target_pixels
    losses = model(*pair(), torch.Generator().manual_seed(0))
    assert set(losses.terms) == {"flow", "encoding", "kl"}
    losses.total.backward()
    assert model.encoding_loss.logit_scale is not None
    for part in (model.encoding_loss.tower, model.source_encoder, model.network):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert model.encoding_loss.logit_scale.grad is not None
    expected = losses.terms["flow"] + losses.terms["encoding"] + 1e-2 * losses.terms["kl"]
    torch.testing.assert_close(losses.total.detach(), expected)


def test_a_latent_tower_needs_no_pixels_and_takes_its_own_sizes() -> None:
    model = bridge(tower={"name": "tokens", "width": 32, "heads": 2, "depth": 1, "patch": 4})
    assert not model.needs_target_pixels
    losses = model(*pair(pixels=None), torch.Generator().manual_seed(0))
    assert torch.isfinite(losses.total)
    assert model.encoding_loss.tower.source.count == 4  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["intra", "reconstruction"])
def test_the_other_encoding_losses_work_with_a_narrowing_encoder(kind: str) -> None:
    encoding = {"name": kind, "logit_scale": "raw"} if kind == "intra" else {"name": kind}
    losses = bridge(**encoding)(*pair(pixels=None), torch.Generator().manual_seed(0))
    assert torch.isfinite(losses.terms["encoding"])


@pytest.mark.parametrize(("model", "width"), [("mobilenetv3_small_100", 1024), ("vit_tiny_patch16_224", 192)])
def test_models_of_other_sizes_and_widths_fit(model: str, width: int) -> None:
    tower = TimmTower(TimmTowerSettings(model=model, size=64), TARGET).eval()
    assert tower.head.linear_in.in_features == width  # type: ignore[union-attr]
    with torch.no_grad():
        assert tower(torch.rand(1, 3, 32, 32)).shape == (1, 256)


def test_a_size_that_a_model_cannot_take_is_refused_when_it_is_built() -> None:
    with pytest.raises(UsageError, match=r"encoding\.tower\.size=100 does not suit the model 'coatnet_pico_rw_224'"):
        TimmTower(TimmTowerSettings(model="coatnet_pico_rw_224", size=100), TARGET)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="timm has no model 'nonesuch'"):
        bridge(tower={**TIMM, "model": "nonesuch"})
    with pytest.raises(ValueError, match=r"encoding\.tower\.name\n.* should be 'tokens'"):
        bridge(name="intra", tower=TIMM)
    with pytest.raises(ValueError, match="looks at pixels"):
        bridge(tower=TIMM)(*pair(pixels=None))
