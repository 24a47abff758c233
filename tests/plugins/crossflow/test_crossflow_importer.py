"""Shrunken files become checkpoints that open, hold the same numbers and build the network of their recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints import importer
from bridgeflow.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.encoding_loss import Contrast
from bridgeflow_plugins.crossflow import CrossFlowImporter
from bridgeflow_plugins.crossflow.importer import CrossFlowOptions, expected_shapes, key_map, keys_digest
from bridgeflow_plugins.crossflow.layout import DiMRLayout, read_layout
from bridgeflow_plugins.crossflow.recipe import recipe_tree

StateDict = dict[str, Tensor]
Shrunken = Callable[..., StateDict]
Save = Callable[..., Path]
HEADS = {"heads": 4, "encoder_heads": 4}


def imported(file: Path, folder: Path, **options: Any) -> importer.Recognised:
    """Imports a file, as the command does."""
    found = importer.recognise(CrossFlowImporter(CrossFlowOptions(**options)), file, folder)
    importer.write(found, "crossflow", file, folder)
    return found


def bridge_of(checkpoint: Checkpoint, side: int) -> Bridge:
    """The bridge of a checkpoint of a shrunken network, with its weights."""
    recipe = checkpoint.recipe()
    source, target = LatentSpec((8, 64), "sequence"), LatentSpec((4, side, side), "grid")
    bridge = Bridge(recipe.keys, recipe.network, source, target)
    bridge.load_state_dict(checkpoint.weights())
    return bridge


@pytest.mark.parametrize(("name", "side"), [("dimr256", 32), ("dimr512", 64), ("dit512", 64)])
def test_a_shrunken_file_becomes_a_checkpoint_that_opens(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path, name: str, side: int
) -> None:
    tensors, folder = shrunken(name), tmp_path / "deep" / "checkpoint"
    found = imported(saved(tensors), folder, text_encoder=frozen[0], vae=frozen[1], **HEADS)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.step == 0
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "model.safetensors", "recipe.yaml"]
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert sum(found.kept.values()) == sum(own.numel() for own in checkpoint.weights().values()) == numbers
    bridge = bridge_of(checkpoint, side)
    # One tensor by name, and every number of the file wherever it went.
    if name == "dit512":
        assert torch.equal(bridge.network.positions, tensors["pos_embed"][0])
    else:
        assert torch.equal(bridge.network.stages[0].indicator_null, tensors["stages.0.tensor_true"])
    state = bridge.state_dict()
    total = sum(own.double().sum() for own in state.values())
    assert float(total) == pytest.approx(float(sum(own.double().sum() for own in tensors.values())), abs=1e-6)
    settings = checkpoint.recipe().tree()
    assert settings["source"]["codec"]["path"] == frozen[0]
    assert settings["target"]["codec"]["path"] == frozen[1]
    assert settings["target"]["size"] == 8 * side
    assert settings["source_encoder"]["heads"] == 4


def test_the_facts_tell_where_a_checkpoint_comes_from(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path
) -> None:
    tensors = shrunken("dimr256", head=True)
    file = saved(tensors)
    found = imported(file, tmp_path / "checkpoint", text_encoder=frozen[0])
    meta = json.loads((tmp_path / "checkpoint" / "meta.json").read_text())
    assert (meta["task"], meta["recipe"], meta["step"]) == ("t2i", "crossflow/256px_dimr", 0)
    own = meta["imported"]
    assert (own["importer"], own["file"], own["size"]) == ("crossflow", "network.pth", file.stat().st_size)
    assert own["kept"] == {"velocity network": 359_210, "text variational encoder": 653_736}
    assert own["dropped"] == {"image tower's head": 20_987_904}
    assert own["published_as"] is None
    assert own["keys_sha256"] == keys_digest({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    assert found.example == "a corgi in a red hat"
    told = " ".join(found.notes)
    assert "--keep-tower" in told
    assert "1 in the velocity network and 8 in the text variational encoder" in told
    assert "stabilityai/sd-vae-ft-ema" in told
    assert frozen[0] not in told
    sure = CrossFlowImporter(CrossFlowOptions(text_encoder=frozen[0], vae=frozen[1], **HEADS)).recognise(file)
    assert [note.partition(",")[0] for note in sure.notes] == ["the image tower is left out"]


def of_widths(network: int, encoder: int, tensors: StateDict) -> StateDict:
    """A shrunken state dict with another width of its velocity network and of its text encoder."""
    layout = read_layout({key: tuple(own.shape) for key, own in tensors.items()}, "f.pth")
    own: Any = layout.network
    if isinstance(own, DiMRLayout):
        own = replace(own, stages=(replace(own.stages[0], width=network), *own.stages[1:]))
    else:
        own = replace(own, width=network, hidden=4 * network)
    layout = replace(layout, network=own, encoder=replace(layout.encoder, width=encoder))
    recipe = recipes.resolve(recipe_tree(layout, "some/encoder", "some/vae", 8), "crossflow/wide")
    return {key: torch.ones(shape) for key, shape in expected_shapes(recipe, layout, key_map(layout, "mlp")).items()}


@pytest.mark.parametrize("name", ["dimr256", "dimr512", "dit512"])
def test_heads_are_held_against_the_widths_of_the_file_alone(
    shrunken: Shrunken, saved: Save, tmp_path: Path, name: str
) -> None:
    """6 and 3 divide no width of the published networks with T5, with whose layouts such a file was compared."""
    file = saved(of_widths(96, 48, shrunken(name)))
    options = {"text_encoder": "some/encoder", "heads": 6, "encoder_heads": 3}
    tree = imported(file, tmp_path / "checkpoint", **options).recipe.tree()
    assert (tree["network"]["stages"][0] if name.startswith("dimr") else tree["network"])["heads"] == 6
    assert tree["source_encoder"]["heads"] == 3
    assert open_checkpoint(tmp_path / "checkpoint", thorough=True).step == 0
    with pytest.raises(UsageError, match=r"^--heads 5 does not divide the network's width of 96: give a divisor of it"):
        imported(file, tmp_path / "other", **options | {"heads": 5})
    with pytest.raises(UsageError, match=r"^--encoder-heads 5 does not divide the layers' widths \[48, 24, 12\]: give"):
        imported(file, tmp_path / "other", **options | {"encoder_heads": 5})


def test_heads_are_no_reason_to_miss_a_spoilt_tensor(
    shapes_of: Callable[[str], dict[str, tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shapes = {**shapes_of("512px_t5_dit"), "blocks.0.mlp.fc1.weight": (5000, 1280)}
    empty = {own: torch.empty(size, device="meta") for own, size in shapes.items()}
    monkeypatch.setattr("bridgeflow_plugins.crossflow.importer.read_state_dict", lambda file: empty)
    with pytest.raises(BridgeflowError, match="holds 1 tensors of other shapes"):
        CrossFlowImporter(CrossFlowOptions(heads=7, encoder_heads=3)).recognise(tmp_path / "spoilt.pth")


def test_bf16_narrows_matrices_and_kernels_alone(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path
) -> None:
    tensors = shrunken("dimr512")
    imported(saved(tensors), tmp_path / "half", text_encoder=frozen[0], precision="bf16", **HEADS)
    checkpoint = open_checkpoint(tmp_path / "half")
    weights = checkpoint.weights()
    key = "network.stages.0.blocks.0.attention.qkv.weight"
    assert torch.equal(weights[key], tensors["stages.0.blocks.0.block1.query_key_value.weight"].bfloat16())
    narrow = {name for name, tensor in weights.items() if tensor.dtype == torch.bfloat16}
    assert all(name.endswith(".weight") and weights[name].ndim >= 2 for name in narrow)
    wide = weights.keys() - narrow
    assert {weights[name].dtype for name in wide} == {torch.float32}
    assert {"source_encoder.tail.conv.weight", "network.stages.1.blocks.0.depthwise.weight"} <= narrow
    assert {"source_encoder.tail.norm_conv.weight", "network.stages.0.positions"} <= wide
    assert sum(weights[name].numel() for name in narrow) > 0.94 * sum(own.numel() for own in weights.values())
    assert checkpoint.recipe().tree()["source"]["codec"]["precision"] == "bf16"
    bridge_of(checkpoint, 64)


def test_half_precision_files_are_widened(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path
) -> None:
    tensors = {key: tensor.half() for key, tensor in shrunken("dimr256").items()}
    imported(saved(tensors), tmp_path / "checkpoint", text_encoder=frozen[0], **HEADS)
    weights = open_checkpoint(tmp_path / "checkpoint").weights()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    found = weights["source_encoder.layers.0.attention.query.weight"]
    assert torch.equal(found, tensors["context_encoder.layers.0.attn.W_Q.weight"].float())


def test_the_tower_is_kept_on_request(shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path) -> None:
    import timm

    trunk = timm.create_model("test_vit", num_classes=0)
    tensors = {
        key: tensor for key, tensor in shrunken("dimr256", head=True).items() if key != "open_clip_output.fc1.weight"
    }
    tensors["open_clip_output.fc1.weight"] = torch.randn(4096, trunk.num_features)
    tensors["open_clip.logit_scale"] = torch.tensor(2.5)
    tensors |= {f"open_clip.visual.trunk.{key}": own for key, own in trunk.state_dict().items()}
    file = saved(tensors)
    options = {"text_encoder": frozen[0], "keep_tower": True, "tower": "test_vit", "precision": "bf16", **HEADS}
    found = imported(file, tmp_path / "checkpoint", **options)
    assert not found.dropped
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    tower = checkpoint.recipe().tree()["encoding"]["tower"]
    assert tower == {"name": "timm", "model": "test_vit", "size": 160, "head": "mlp"}
    bridge = bridge_of(checkpoint, 32)
    assert isinstance(bridge.encoding_loss, Contrast)
    assert bridge.encoding_loss.logit_scale.item() == 2.5
    assert torch.equal(bridge.encoding_loss.tower.trunk.pos_embed, trunk.pos_embed)
    kept = sum(tensor.numel() for key, tensor in tensors.items() if key.startswith("open_clip"))
    assert found.kept["image tower"] + found.kept["image tower's head"] == kept
    with pytest.raises(BridgeflowError, match=r"tensors that a CrossFlow network of its size does not have|lacks"):
        imported(file, tmp_path / "other", **{**options, "tower": "test_vit2"})


def test_a_tower_that_is_not_there_cannot_be_kept(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(BridgeflowError, match=r"holds no image tower .* leave --keep-tower out"):
        imported(saved(shrunken("dimr256")), tmp_path / "checkpoint", text_encoder=frozen[0], keep_tower=True, **HEADS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages.0.skip_denses.1.bias": None}, r"lacks 1 of .* 'stages.0.skip_denses.1.bias' \(64,\)"),
        (
            {"stages.1.blocks.0.block1.1.weight": torch.ones(32, 1, 5, 5)},
            r"has shape \(32, 1, 5, 5\), not \(32, 1, 7, 7\)",
        ),
        ({"open_clip.other": torch.ones(2)}, "1 tensors .* does not have, such as 'open_clip.other'"),
        ({"stages.0.blocks.4000.norm": torch.ones(2)}, "1 tensors .* such as 'stages.0.blocks.4000.norm'"),
        ({"context_encoder.reduction_layers.99999999.x": torch.ones(2)}, "1 tensors .* such as 'context_encoder.red"),
        ({"unet.down.weight": torch.ones(2)}, "1 tensors .* does not have, such as 'unet.down.weight'"),
        ({"stages.0.tensor_true": torch.tensor([float("nan")])}, "is damaged .*'stages.0.tensor_true'.* not finite"),
        ({"stages.1.input_layer.1.bias": torch.full((32,), float("inf"))}, "not finite"),
        ({"stages.0.tensor_true": torch.ones(1, dtype=torch.int64)}, r"'stages.0.tensor_true' as torch.int64"),
    ],
)
def test_a_file_at_fault_is_refused_and_leaves_nothing(
    shrunken: Shrunken,
    saved: Save,
    frozen: tuple[str, str],
    tmp_path: Path,
    change: dict[str, Tensor | None],
    words: str,
) -> None:
    tensors = {key: own for key, own in {**shrunken("dimr256"), **change}.items() if own is not None}
    file = saved(tensors)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BridgeflowError, match=words):
        imported(file, tmp_path / "checkpoint", text_encoder=frozen[0], **HEADS)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("256px_clip_dimr", "context_encoder.layers.0.attn.W_Q.weight", (768, 766)),
        ("256px_t5_dimr", "context_encoder.layers.0.feed_forward.ffn_1.weight", (1000, 1024)),
        ("512px_t5_dit", "blocks.0.mlp.fc1.weight", (5000, 1280)),
    ],
)
def test_a_published_file_with_one_spoilt_tensor_names_that_one(
    shapes_of: Callable[[str], dict[str, tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    key: str,
    shape: tuple[int, ...],
) -> None:
    """A size is read from each of these, so that all the other tensors would look wrong."""
    shapes = {**shapes_of(name), key: shape}
    empty = {own: torch.empty(size, device="meta") for own, size in shapes.items()}
    monkeypatch.setattr("bridgeflow_plugins.crossflow.importer.read_state_dict", lambda file: empty)
    with pytest.raises(BridgeflowError, match="holds 1 tensors of other shapes") as told:
        CrossFlowImporter(CrossFlowOptions()).recognise(tmp_path / "spoilt.pth")
    assert f"{key!r} has shape {shape}, not {shapes_of(name)[key]}" in str(told.value)


def test_a_text_encoder_of_unknown_width_must_be_named(shrunken: Shrunken, saved: Save, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"features of width 64, .* name its text encoder with --text-encoder"):
        imported(saved(shrunken("dimr256")), tmp_path / "checkpoint", **HEADS)


def test_frozen_parts_that_do_not_fit_are_refused(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path
) -> None:
    text, vae = Path(frozen[0]), Path(frozen[1])
    file = saved(shrunken("dimr256"))
    (text / "config.json").write_text(json.dumps({"d_model": 32}))
    with pytest.raises(UsageError, match="features of width 32, but the network takes 64"):
        imported(file, tmp_path / "checkpoint", text_encoder=str(text), **HEADS)
    (vae / "config.json").write_text(json.dumps({"latent_channels": 16}))
    with pytest.raises(UsageError, match="latents of 16 channels, but the network takes 4"):
        imported(file, tmp_path / "checkpoint", text_encoder="some/encoder", vae=str(vae), **HEADS)
    (vae / "config.json").unlink()
    (vae / "vae").mkdir()
    (vae / "vae" / "config.json").write_text(json.dumps({"latent_channels": 4, "block_out_channels": [8, 8, 8]}))
    imported(file, tmp_path / "checkpoint", text_encoder="some/encoder", vae=str(vae), **HEADS)
    target = open_checkpoint(tmp_path / "checkpoint").recipe().tree()["target"]
    assert (target["size"], target["codec"]["factor"]) == (128, 4)


def test_a_file_is_written_as_safetensors_reads_it(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    file, folder = saved(shrunken("dit512")), tmp_path / "checkpoint"
    options = CrossFlowOptions(text_encoder=frozen[0], precision="bf16", heads=4, encoder_heads=4)
    found = importer.recognise(CrossFlowImporter(options), file, folder)
    importer.write(found, "crossflow", file, folder, lambda done, total: seen.append((done, total)))
    size = (folder / "model.safetensors").stat().st_size
    assert len(seen) == len(found.tensors)
    assert seen == sorted(seen)
    assert seen[-1] == (found.size, found.size)
    assert found.size < size < found.size + 200 * len(found.tensors)
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert stored.metadata() == {"format": "pt"}
        assert set(stored.keys()) == found.tensors.keys()
        assert stored.get_slice("network.positions").get_shape() == [1024, 64]


def test_an_import_that_is_stopped_leaves_nothing(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    file, folder = saved(shrunken("dimr256")), tmp_path / "checkpoint"
    before = sorted(tmp_path.iterdir())
    options = CrossFlowOptions(text_encoder=frozen[0], heads=4, encoder_heads=4)
    found = importer.recognise(CrossFlowImporter(options), file, folder)
    with pytest.raises(KeyboardInterrupt):
        importer.write(found, "crossflow", file, folder, stop)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_noticed_before_anything_is_written(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(shrunken("dit512"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=70_000_000))
    options = {"text_encoder": frozen[0], **HEADS}
    with pytest.raises(BridgeflowError, match=r"takes 0\.1 GB, but '.*' has 0\.1 GB free"):
        imported(file, tmp_path / "checkpoint", **options)
    imported(file, tmp_path / "checkpoint", precision="bf16", **options)


def test_a_folder_of_another_kind_of_model_is_refused(
    shrunken: Shrunken, saved: Save, frozen: tuple[str, str], tmp_path: Path
) -> None:
    file = saved(shrunken("dimr256"))
    text, vae = frozen
    with pytest.raises(UsageError, match="holds no autoencoder"):
        imported(file, tmp_path / "out", text_encoder=text, vae=text, **HEADS)
    with pytest.raises(UsageError, match="holds no text encoder"):
        imported(file, tmp_path / "out", text_encoder=vae, vae=vae, **HEADS)
    assert not (tmp_path / "out").exists()
