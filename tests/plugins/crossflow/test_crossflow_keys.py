"""The table of keys, read both ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bridgeflow_plugins.crossflow.importer import key_map
from bridgeflow_plugins.crossflow.keys import KeyMap
from bridgeflow_plugins.crossflow.layout import PUBLISHED

Shapes = dict[str, tuple[int, ...]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_key_goes_to_ours_and_back(shapes_of: Callable[[str], Shapes], name: str) -> None:
    keys = key_map(PUBLISHED[name], "mlp" if name.startswith("256") else "conv")
    ours = set()
    for key, shape in shapes_of(name).items():
        renamed, laid_out = keys.to_ours(key, torch.empty(shape, device="meta"))
        ours.add(renamed)
        back, same = keys.to_published(renamed, laid_out)
        assert (back, same.shape) == (key, shape)
    assert len(ours) == len(shapes_of(name))


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("stages.0.tensor_true", "network.stages.0.indicator_null"),
        ("stages.0.tensor_false", "network.stages.0.indicator_conditional"),
        ("stages.1.upsample.2.bias.nodecay_weight", "network.stages.1.upsample.norm_out.shift.slope"),
        ("stages.1.upsample.0.weight.nodecay_bias", "network.stages.1.upsample.norm_in.scale.offset"),
        ("stages.0.blocks.64.block1.norm.scale.param0", "network.stages.0.blocks.64.norm_attention.scale.early"),
        ("stages.0.blocks.3.block2.norm.scale.param1", "network.stages.0.blocks.3.norm_mlp.scale.late"),
        ("stages.0.blocks.3.block2.w0.weight", "network.stages.0.blocks.3.mlp.gate.weight"),
        ("stages.1.blocks.12.block1.1.bias", "network.stages.1.blocks.12.depthwise.bias"),
        ("stages.1.output_layer.2.weight", "network.stages.1.head.weight"),
        ("context_encoder.layers.10.attn.W_O.bias", "source_encoder.layers.10.attention.out.bias"),
        ("context_encoder.layers.0.norm2.g", "source_encoder.layers.0.norm_mlp.weight"),
        (
            "context_encoder.reduction_layers.2.feed_forward.ffn_2.weight",
            "source_encoder.narrowings.2.layer.mlp.2.weight",
        ),
        ("context_encoder.reduction_layers.2.reduction.bias", "source_encoder.narrowings.2.narrow.bias"),
        ("context_encoder.compressor.ln_fc1.weight", "source_encoder.compress.norm.weight"),
        ("open_clip.logit_scale", "encoding_loss.logit_scale"),
        ("open_clip.visual.trunk.attn_pool.mlp.fc1.bias", "encoding_loss.tower.trunk.attn_pool.mlp.fc1.bias"),
        ("open_clip_output.fc2.bias", "encoding_loss.tower.head.linear_out.bias"),
    ],
)
def test_names(published: str, ours: str) -> None:
    keys = KeyMap("dimr", "linear", "mlp")
    assert keys.our_name(published) == ours
    assert keys.published_name(ours) == published


def test_two_ends_share_words_and_are_told_apart() -> None:
    linear, conv = KeyMap("dimr", "linear", "mlp"), KeyMap("dimr", "conv", "conv")
    assert linear.published_name("source_encoder.tail.linear.weight") == "context_encoder.linear.weight"
    assert conv.published_name("source_encoder.tail.linear.weight") == "context_encoder.adaptor.fc2.weight"
    assert conv.our_name("context_encoder.linear.weight") is None
    assert conv.our_name("open_clip_output.fc2.bias") == "encoding_loss.tower.head.linear.bias"


@pytest.mark.parametrize(
    "key", ["stages.0.blocks.0.block1.dense.gain", "stages.x.tensor_true", "blocks.0.attn.qkv.weight", "stages.0", ""]
)
def test_foreign_keys_have_no_name(key: str) -> None:
    keys = KeyMap("dimr", "linear", "mlp")
    assert keys.our_name(key) is None
    with pytest.raises(KeyError):
        keys.to_ours(key, torch.zeros(1))


def test_a_dit_head_is_reordered_from_channels_last_to_channels_first() -> None:
    channels, patch = 3, 2
    keys = KeyMap("dit", "conv", "conv", channels, patch)
    # Row of the published head: its place in the patch times ten, and its channel.
    published = torch.tensor([10.0 * (2 * row + column) + c for row in (0, 1) for column in (0, 1) for c in range(3)])
    name, bias = keys.to_ours("final_layer.linear.bias", published)
    assert name == "network.head.bias"
    assert bias.tolist() == [0, 10, 20, 30, 1, 11, 21, 31, 2, 12, 22, 32]
    assert torch.equal(keys.to_published(name, bias)[1], published)
    weight = published[:, None] * torch.tensor([1.0, -1.0])
    assert torch.equal(keys.to_ours("final_layer.linear.weight", weight)[1], bias[:, None] * torch.tensor([1.0, -1.0]))


def test_a_dit_patch_kernel_becomes_a_matrix_that_gives_the_same_tokens() -> None:
    keys = KeyMap("dit", "conv", "conv", 3, 2)
    kernel, z = torch.randn(5, 3, 2, 2), torch.randn(1, 3, 2, 2)
    name, matrix = keys.to_ours("x_embedder.proj.weight", kernel)
    assert (name, matrix.shape) == ("network.embed.weight", (5, 12))
    same = torch.nn.functional.conv2d(z, kernel, stride=2).flatten()
    assert torch.allclose(matrix @ z.flatten(), same, atol=1e-6)
    assert torch.equal(keys.to_published(name, matrix)[1], kernel)
    assert keys.to_ours("pos_embed", torch.zeros(1, 16, 8))[1].shape == (16, 8)
