"""Alignment of a network's hidden tokens with a frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bridgeflow.assembly import assemble
from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.features import PictureFeatures
from bridgeflow.nn.reading_dit import ReadingDiTSettings
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.nn.velocity import NetworkSettings
from bridgeflow.runtime.randomness import generator

GRID = LatentSpec((3, 8, 8), "grid")
REPA: dict[str, Any] = {"name": "repa", "size": 64, "width": 16}
SMALL: dict[str, Any] = {"width": 32, "depth": 3, "heads": 4}
NETWORKS = {
    "dit": DiTSettings(**SMALL, patch=2),
    "modern": DiTSettings(**SMALL, block="modern"),
    "reading_dit": ReadingDiTSettings(**SMALL, spans=4),
    "unet": UNetSettings(channels=(8, 16), blocks=1, norm="none"),
}


def batch(rows: int = 4) -> tuple[Latent, Latent, Tensor]:
    random = generator("batch")
    pixels = torch.rand(rows, 3, 32, 32, generator=random) * 2 - 1
    target = Latent(torch.randn(rows, *GRID.shape, generator=random), observed=pixels)
    return Latent(torch.randn(rows, *GRID.shape, generator=random)), target, torch.zeros(rows, dtype=torch.bool)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_hidden_tokens_stand_where_those_of_the_state_do(network: NetworkSettings) -> None:
    """What changes in one corner of the state changes the map there, more than in the other corner."""
    torch.manual_seed(0)
    own = network.build(GRID)
    layer, features = own.hidden_layers()[0]
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda module, given, found: seen.append(found))
    z = torch.zeros(1, *GRID.shape)
    for corner in (0.0, 5.0):
        z[..., :2, :2] = corner
        with torch.no_grad():
            own(z, torch.zeros(1), torch.zeros(1, dtype=torch.bool))
    # A network that reads its source asks for the block once, behind the reader.
    before, after = (own.hidden_map(found) for found in seen)
    assert before.shape[1] == features
    change = (after - before).square().mean(1)[0]
    assert change[0, 0] > 2 * change[-1, -1]


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_it_is_a_term_of_the_loss_that_trains_what_comes_before_it(network: NetworkSettings) -> None:
    torch.manual_seed(0)
    bridge = Bridge(BridgeSettings(alignment={**REPA, "layer": 2, "weight": 3.0}), network, GRID, GRID)
    assert bridge.needs_target_pixels
    source, target, null = batch()
    losses = bridge(source, target, generator("draws"), null)
    plain = losses.terms["flow"] + sum(
        (bridge.network.reading_weight * own for name, own in losses.terms.items() if name == "reading"),
        start=torch.zeros(()),
    )
    assert float(losses.terms["alignment"]) == pytest.approx(1.0, abs=0.5)
    assert float(losses.total.detach()) == pytest.approx(float(plain + 3 * losses.terms["alignment"]), rel=1e-5)
    assert bridge.alignment is not None
    for parameter in bridge.network.parameters():
        parameter.grad = None
    with torch.enable_grad():
        losses.total.backward()
    assert all(own.grad is not None for own in bridge.alignment.parameters())
    # The encoder is nobody's: neither trained nor saved.
    assert not any("features" in name for name in bridge.state_dict())


def test_the_pixels_are_those_that_the_flow_ends_at() -> None:
    bridge = Bridge(BridgeSettings(alignment={**REPA, "layer": 1}), NETWORKS["dit"], GRID, GRID)
    source, target, _ = batch()
    assert bridge.alignment is not None
    given: list[Tensor] = []
    bridge.alignment.register_forward_pre_hook(lambda module, arguments: given.append(arguments[2](arguments[1])))
    bridge(source, target, generator("draws"), torch.tensor([True, False, True, False]))
    assert target.observed is not None
    # Null rows take one another's targets.
    assert torch.equal(given[0], target.observed[[2, 1, 0, 3]])


def test_tokens_come_nearer_to_the_features() -> None:
    torch.manual_seed(0)
    bridge = Bridge(BridgeSettings(alignment={**REPA, "layer": 2}), NETWORKS["dit"], GRID, GRID)
    optimizer = torch.optim.AdamW(bridge.parameters(), 3e-3)
    source, target, null = batch()
    found = []
    for step in range(15):
        optimizer.zero_grad()
        losses = bridge(source, target, generator("draws", step), null)
        losses.total.backward()
        optimizer.step()
        found.append(float(losses.terms["alignment"]))
    assert found[-1] < found[0] - 0.3


def test_features_are_maps_in_float32_whatever_the_size() -> None:
    features = PictureFeatures("efficientnet", 64)
    pixels = torch.rand(2, 3, 40, 56) * 2 - 1
    found = features(pixels)
    assert found.shape == (2, features.channels, 4, 4)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert not torch.allclose(found[0], found[1])


def test_a_folder_of_transformers_gives_its_tokens_of_the_picture(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path / "vit")
    features = PictureFeatures(str(tmp_path / "vit"), 32)
    assert features(torch.zeros(2, 3, 64, 64)).shape == (2, 16, 4, 4)


def test_what_does_not_suit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"alignment.layer is 4, but this network \(DiT\) shows 3 blocks"):
        Bridge(BridgeSettings(alignment={**REPA, "layer": 4}), NETWORKS["dit"], GRID, GRID)
    with pytest.raises(UsageError, match=r"alignment.encoder='no-such-model' gives no features"):
        PictureFeatures("no-such-model", 64)
    settings = BridgeSettings(alignment={**REPA, "layer": 1}, objective={"name": "mean_flow"})
    with pytest.raises(UsageError, match=r"alignment.name=repa does not go with objective.name=mean_flow"):
        Bridge(settings, NETWORKS["dit"], GRID, GRID)
    line = LatentSpec((5, 7), "sequence")
    with pytest.raises(UsageError, match=r"the target latent \(sequence 5x7\) has none"):
        Bridge(BridgeSettings(alignment=REPA), DiTSettings(**SMALL), line, line)
    bridge = Bridge(BridgeSettings(alignment={**REPA, "layer": 1}), NETWORKS["dit"], GRID, GRID)
    with pytest.raises(UsageError, match="these targets come without"):
        bridge(Latent(torch.zeros(2, *GRID.shape)), Latent(torch.zeros(2, *GRID.shape)))
    shown = recipes.load("caption/blocks", ["alignment.name=repa"])
    with pytest.raises(UsageError, match=r"the target latent .* has none: set alignment.name=none"):
        assemble(shown).build_bridge()
