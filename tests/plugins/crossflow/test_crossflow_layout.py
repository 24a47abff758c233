"""Which network a state dict is one of, from its keys and shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bridgeflow.config import recipe as recipes
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow_plugins.crossflow.importer import expected_shapes, key_map, refuse_others
from bridgeflow_plugins.crossflow.layout import (
    PUBLISHED,
    DiMRLayout,
    DiTLayout,
    EncoderLayout,
    StageLayout,
    read_layout,
)
from bridgeflow_plugins.crossflow.recipe import encoder_heads, recipe_tree, velocity_heads

Shapes = dict[str, tuple[int, ...]]
TOWER = "vit_large_patch16_siglip_256"


def recipe_of(name: str, tower: bool = False) -> Any:
    head: Any = "conv" if name.startswith("512") else "mlp"
    kept = (TOWER, 256, head) if tower else None
    tree = recipe_tree(PUBLISHED[name], "some/encoder", "some/vae", 8, "fp32", None, None, kept)
    return recipes.resolve(tree, f"crossflow/{name}")


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_published_file_is_recognised_from_its_keys(shapes_of: Callable[[str], Shapes], name: str) -> None:
    layout = read_layout(shapes_of(name), "f.pth")
    assert layout.published_as == name
    size, words, kind = name.split("_")
    assert layout.title == f"CrossFlow's {size} {words.upper()} {'DiMR' if kind == 'dimr' else 'DiT'}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipe_of_each_published_file_builds_its_very_tensors(
    shapes_of: Callable[[str], Shapes], name: str
) -> None:
    layout = PUBLISHED[name]
    keys = key_map(layout, "conv" if layout.side == 64 else "mlp")
    assert expected_shapes(recipe_of(name, tower=True), layout, keys) == shapes_of(name)
    backbone = {key: shape for key, shape in shapes_of(name).items() if not key.startswith("open_clip")}
    assert expected_shapes(recipe_of(name), layout, keys) == backbone


def test_recipes_have_the_published_hyper_parameters() -> None:
    first = recipe_of("256px_clip_dimr").tree()
    assert first["network"]["stages"][0]["heads"] == 16
    assert first["network"]["stage_weights"] == [0.25, 1.0]
    assert first["source_encoder"]["heads"] == 8
    codec = first["source"]["codec"]
    assert (codec["max_length"], codec["width"], codec["scale"], codec["padding"]) == (77, 768, 1.0, "encoded")
    assert (first["target"]["size"], first["target"]["codec"]["scale"]) == (256, 0.2301)
    assert first["encoding"]["name"] == "none"
    assert first["sampling"]["guidance"]["scale"] == 7.0
    rates = {name: recipe_of(name).keys.optimizer.learning_rate for name in PUBLISHED}
    assert rates == {
        "256px_clip_dimr": 1e-5,
        "256px_t5_dimr": 5e-5,
        "512px_clip_dimr": 1e-5,
        "512px_t5_dimr": 1e-5,
        "512px_t5_dit": 2e-5,
    }
    assert {name: recipe_of(name).keys.null_rate for name in PUBLISHED} == {
        "256px_clip_dimr": 0.1,
        "256px_t5_dimr": 0.1,
        "512px_clip_dimr": 0.15,
        "512px_t5_dimr": 0.15,
        "512px_t5_dit": 0.1,
    }
    last = recipe_of("512px_t5_dit", tower=True).tree()
    assert (last["network"]["heads"], last["network"]["mlp_ratio"], last["network"]["time_scale"]) == (20, 4.0, 1.0)
    assert (last["source"]["codec"]["width"], last["source"]["codec"]["scale"]) == (4096, 10.0)
    assert last["encoding"]["tower"] == {"name": "timm", "model": TOWER, "size": 256, "head": "conv"}
    assert last["encoding"]["logit_scale"] == "raw"
    assert recipe_of("512px_t5_dimr").tree()["network"]["stage_weights"] == [0.25, 0.5, 1.0]


def test_shrunken_networks_are_read_from_their_shapes(shrunken: Callable[[str], dict[str, torch.Tensor]]) -> None:
    def layout(name: str) -> Any:
        return read_layout({key: tuple(tensor.shape) for key, tensor in shrunken(name).items()}, "f.pth")

    small = layout("dimr256")
    assert small.network == DiMRLayout(
        (StageLayout("transformer", 64, 128, 5, 2), StageLayout("convnext", 32, 64, 3, 1))
    )
    assert small.encoder == EncoderLayout(8, 64, None, 2, 3, 128, "linear")
    assert (small.channels, small.side, small.published_as) == (4, 32, None)
    assert "latent 4x32x32, text 8x64" in small.title
    assert [stage.patch for stage in layout("dimr512").network.stages] == [4, 2, 1]
    assert layout("dit512").network == DiTLayout(64, 3, 256, 2, 256)
    assert layout("dit512").encoder.tail == "conv"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages.0.input_layer.1.weight": None}, "another network than CrossFlow's.*'stages.0.tensor_true'"),
        ({"context_encoder.linear.weight": None}, "lacks the tensor 'context_encoder.linear.weight'"),
        ({"context_encoder.layers.0.attn.W_Q.weight": (768,)}, r"with shape \(768,\), where 2 axes were expected"),
        ({"stages.0.input_layer.3.position_embeddings.weight": (255, 1024)}, "255 positions in .* no square grid"),
    ],
)
def test_a_state_dict_that_tells_no_size_is_refused(
    shapes_of: Callable[[str], Shapes], change: dict[str, Any], words: str
) -> None:
    shapes = {**shapes_of("256px_clip_dimr"), **change}
    with pytest.raises(BridgeflowError, match=words):
        read_layout({key: shape for key, shape in shapes.items() if shape is not None}, "'f.pth'")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"c": (9,), "d": (1,), "e": (1,), "f": (1,)}, r"holds 4 tensors .* such as 'c', 'd', 'e': give"),
        ({"a": None}, r"lacks 1 of the 2 tensors of its network, such as 'a' \(2, 3\)"),
        ({"b": (5,)}, r"'b' has shape \(5,\), not \(4,\)"),
    ],
)
def test_what_differs_is_named_with_its_shape(change: dict[str, Any], words: str) -> None:
    expected = {"a": (2, 3), "b": (4,)}
    found = {key: shape for key, shape in {**expected, **change}.items() if shape is not None}
    with pytest.raises(BridgeflowError, match=words):
        refuse_others(found, expected, "'f.pth'")


def test_heads_that_a_file_does_not_tell_are_guessed_or_given() -> None:
    assert [velocity_heads(width, None) for width in (1024, 1280, 64, 96, 50)] == [16, 20, 1, 1, 1]
    assert velocity_heads(64, 4) == 4
    encoder = EncoderLayout(8, 24, None, 1, 2, 8, "linear")
    assert encoder_heads(encoder, None) == 6
    assert encoder_heads(encoder, 3) == 3
    with pytest.raises(UsageError, match=r"--heads 5 does not divide .* 64"):
        velocity_heads(64, 5)
    with pytest.raises(UsageError, match=r"--encoder-heads 8 .* \[24, 12\]"):
        encoder_heads(encoder, 8)
