"""Our networks at the published sizes: exactly the published keys, shapes and numbers of parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bridgeflow.bridge import Bridge
from bridgeflow.config import layers, recipe
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.encoding_loss import Contrast
from bridgeflow_plugins.crossflow.importer import key_map
from bridgeflow_plugins.crossflow.layout import PUBLISHED, read_layout
from bridgeflow_plugins.crossflow.recipe import recipe_tree

SIGLIP = "vit_large_patch16_siglip_256"

COUNTS = {
    "256px_clip_dimr": (2188, 1_397_879_531, 950_778_890, 110_156_512, 20_987_904),
    "256px_t5_dimr": (2194, 1_452_920_459, 950_778_890, 165_197_440, 20_987_904),
    "512px_clip_dimr": (2675, 1_420_681_467, 985_439_246, 97_482_344, 21_803_652),
    "512px_t5_dimr": (2681, 1_465_629_851, 985_439_246, 142_430_728, 21_803_652),
    "512px_t5_dit": (951, 1_549_168_541, 1_068_977_936, 142_430_728, 21_803_652),
}
"""Tensors, and parameters in all, of the velocity network, of the source encoder and of the image head."""

STAGES = {
    "256px_clip_dimr": (749_972_486, 200_806_404),
    "512px_clip_dimr": (750_021_638, 200_812_548, 34_605_060),
}
"""Parameters of each stage."""


def numbers(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values())


@pytest.mark.parametrize("name", list(COUNTS))
def test_the_network_accepts_exactly_the_published_state_dict(
    shapes_of: Callable[[str], dict[str, tuple[int, ...]]], name: str
) -> None:
    shapes = shapes_of(name)
    layout = read_layout(shapes, name)
    head = "conv" if name.startswith("512") else "mlp"
    text = "google/t5-v1_1-xxl" if "t5" in name else "openai/clip-vit-large-patch14"
    tree = recipe_tree(layout, text, "stabilityai/sd-vae-ft-ema", 8, "fp32", None, None, (SIGLIP, 256, head))
    resolved = recipe.resolve(layers.parse(layers.dump(tree), name), name)
    keys = key_map(layout, head)
    with torch.device("meta"):
        source = LatentSpec((77, PUBLISHED[name].encoder.width), "sequence")
        side = 64 if name.startswith("512") else 32
        bridge = Bridge(resolved.keys, resolved.network, source, LatentSpec((4, side, side), "grid"))
        published = {key: torch.empty(shape) for key, shape in shapes.items()}
    ours = dict(keys.to_ours(key, tensor) for key, tensor in published.items())
    report = bridge.load_state_dict(ours, assign=True)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    tensors, total, network, encoder, in_head = COUNTS[name]
    assert len(bridge.state_dict()) == tensors
    assert numbers(bridge) == total
    assert numbers(bridge.network) == network
    assert numbers(bridge.source_encoder) == encoder
    assert isinstance(bridge.encoding_loss, Contrast)
    tower = bridge.encoding_loss.tower
    assert numbers(tower.head) == in_head  # type: ignore[union-attr, arg-type]
    assert numbers(tower.trunk) + 1 == 315_956_225  # type: ignore[union-attr, arg-type]
    if name in STAGES:
        assert tuple(numbers(stage) for stage in bridge.network.stages) == STAGES[name]  # type: ignore[union-attr]
