"""Tasks with several sources: their items, latents and codecs as one modality, and what a bridge makes of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bridgeflow.assembly import Assembly, assemble
from bridgeflow.assembly.codec_files import restore_codec, save_codec
from bridgeflow.bridge import Bridge
from bridgeflow.caching.encoding import latent_of, tensors_of
from bridgeflow.conditioned import Conditioned, ConditionedModality
from bridgeflow.config import layers
from bridgeflow.config import recipe as recipes
from bridgeflow.data.encoding import encode
from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent
from bridgeflow_plugins.text import Text

SMALL = (
    "network.channels=[16,32]",
    "network.attention=[1]",
    "source.size=32",
    "target.size=32",
)


def assembled(*overrides: str) -> Assembly:
    return assemble(recipes.load("recolour/blocks", (*SMALL, *overrides)))


@pytest.fixture(scope="module")
def assembly() -> Assembly:
    return assembled()


def pairs(assembly: Assembly, count: int = 3) -> list[tuple[Any, Any]]:
    task = assembly.recipe.task
    rows = [task.example(np.random.default_rng(seed)) for seed in range(count)]
    return [assembly.task.pair(row, np.random.default_rng(0)) for row in rows]


def encoded(assembly: Assembly, count: int = 3) -> Latent:
    batch = assembly.source.collate([source for source, _ in pairs(assembly, count)])
    return encode(assembly.source, batch, torch.device("cpu"))


def test_the_start_and_the_conditions_are_encoded_by_their_own_modalities(assembly: Assembly) -> None:
    source, found = assembly.source, encoded(assembly)
    assert isinstance(source, ConditionedModality)
    items = [own for own, _ in pairs(assembly)]
    start = source.start.encode(source.start.collate([item.start for item in items]))
    words = source.conditions["text"]
    text = words.encode(words.collate([item.conditions["text"] for item in items]))
    assert torch.equal(found.mean, start.mean)
    assert torch.equal(found.conditions["text"].mean, text.mean)
    assert found.conditions["text"].mask is not None
    assert source.latent == source.start.latent


def test_rows_and_devices_reach_the_conditions(assembly: Assembly) -> None:
    found = encoded(assembly)
    chosen = found.rows(torch.tensor([2, 0])).to("cpu")
    assert torch.equal(chosen.conditions["text"].mean, found.conditions["text"].mean[[2, 0]])


def test_a_recipe_has_the_options_of_conditions_below_those_of_the_source() -> None:
    recipe = recipes.load("recolour/blocks", ("source.conditions.text.codec.max_length=9",))
    assert recipe.tree()["source"]["conditions"]["text"]["codec"]["max_length"] == 9
    again = recipes.resolve(layers.merge({}, recipe.tree()), recipe.name)
    assert again.tree() == recipe.tree()
    assert set(recipe.modality_options) == {"source", "source.conditions.text", "target"}
    assert ("modality", "text") in {(plugin.kind, plugin.name) for plugin in recipe.plugins()}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("source.conditions.depth.size=8", r"source\.conditions\.depth: the task 'recolour' has none of this name"),
        ("source.conditions.text.codec.max_length=0", r"source\.conditions\.text\.codec\.max_length"),
        ("conditioning.added=[depth]", "conditioning.added names 'depth': the task has text"),
        ("conditioning.added=[text]", "'text', whose latent is sequence 12x384, but what is added has to be a grid"),
    ],
)
def test_a_mistake_in_a_condition_is_named(override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        assemble(recipes.load("recolour/blocks", (override,))).build_bridge()


def test_a_task_without_conditions_takes_none() -> None:
    with pytest.raises(UsageError, match="conditions"):
        recipes.load("depth/blocks", ("source.conditions.text.size=8",))


def test_an_input_needs_every_condition_and_no_other(assembly: Assembly) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    read = assembly.source.read(Conditioned(picture, {"text": "make the cube red"}))
    assert read.conditions == {"text": "make the cube red"}
    with pytest.raises(UsageError, match="needs 'text' beside its input: give it with --with text=VALUE"):
        assembly.source.read(picture)
    with pytest.raises(UsageError, match="takes no condition 'depth': it takes text"):
        assembly.source.read(Conditioned(picture, {"text": "a", "depth": picture}))


def test_the_velocity_depends_on_what_is_attended_to_and_null_rows_do_not(assembly: Assembly) -> None:
    torch.manual_seed(0)
    bridge = assembly.build_bridge().eval()
    for parameter in bridge.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    first = encoded(assembly)
    other = encoded(assembly)
    other.conditions["text"].mean = other.conditions["text"].mean.flip(0)
    z, t = first.mean, torch.full((3,), 0.5)
    real, null = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)

    def velocity(latent: Latent, rows: torch.Tensor) -> torch.Tensor:
        return bridge.velocity(bridge.encode(latent), z, t, rows)

    assert not torch.allclose(velocity(first, real), velocity(other, real), atol=1e-3)
    assert torch.allclose(velocity(first, null), velocity(other, null), atol=1e-5)


def test_what_is_added_begins_at_nothing_and_then_counts_but_for_null_rows(assembly: Assembly) -> None:
    torch.manual_seed(0)
    recipe = assembly.recipe
    specs = {"depth": assembly.target.latent}
    keys = recipe.keys.model_copy(
        update={"conditioning": recipe.keys.conditioning.model_copy(update={"added": ("depth",)})}
    )

    bridge = Bridge(keys, recipe.network, assembly.source.latent, assembly.target.latent, specs).eval()
    latent = Latent(torch.randn(2, 3, 32, 32), conditions={"depth": Latent(torch.randn(2, 3, 32, 32))})
    encoded_source = bridge.encode(latent)
    assert encoded_source.added is not None
    assert not encoded_source.added.any()
    for parameter in bridge.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with_it, without = bridge.encode(latent), bridge.encode(latent)
    without.added = None
    # Guidance asks for both halves of twice the rows at once.
    z, t = torch.randn(4, 3, 32, 32), torch.full((4,), 0.3)
    null = torch.tensor([False, False, True, True])
    found, plain = bridge.velocity(with_it, z, t, null), bridge.velocity(without, z, t, null)
    assert not torch.allclose(found[:2], plain[:2], atol=1e-3)
    assert torch.equal(found[2:], plain[2:])


def test_shards_hold_the_conditions(assembly: Assembly) -> None:
    found = encoded(assembly)
    tensors = tensors_of(found, "source")
    assert set(tensors) == {"source.mean", "source.text.mean", "source.text.mask"}
    again = latent_of(tensors, "source")
    assert torch.equal(again.mean, found.mean)
    assert torch.equal(again.conditions["text"].mean, found.conditions["text"].mean)


def test_codecs_of_every_part_are_fitted_kept_and_restored(tmp_path: Path) -> None:
    overrides = (
        "source.codec={name: pca, patch: 8, components: 8}",
        "target.codec={name: pca, patch: 8, components: 8}",
        "source.conditions.text.codec={name: autoencoder, steps: 2, width: 16, channels: 4}",
        "network={name: dit, width: 16, depth: 1, heads: 1}",
    )
    assembly = assemble(recipes.load("recolour/blocks", (*SMALL[2:], *overrides)))
    source = assembly.source
    assert isinstance(source, ConditionedModality)
    assert source.needs_fit
    source.fit(item for item, _ in pairs(assembly, 16))
    assert not source.needs_fit
    save_codec(source, tmp_path / "source", {})
    fresh = assemble(recipes.load("recolour/blocks", (*SMALL[2:], *overrides)))
    restore_codec(fresh.source, tmp_path / "source")
    assert fresh.source.fingerprint() == source.fingerprint()
    found, expected = encoded(fresh), encoded(assembly)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.conditions["text"].mean, expected.conditions["text"].mean)
    # The target's codec is the start's where both are alike, whatever the conditions still need.
    assert fresh.target.needs_fit


def test_workers_get_it_by_pickle(assembly: Assembly) -> None:
    copy = pickle.loads(pickle.dumps(assembly.source))
    assert copy.fingerprint() == assembly.source.fingerprint()


def test_the_picture_of_an_item_shows_every_part(assembly: Assembly) -> None:
    source = assembly.source
    item = source.example(np.random.default_rng(0))
    assert isinstance(source.conditions["text"], Text)
    shown = source.preview(item)
    assert shown.width > source.start.preview(item.start).width  # type: ignore[union-attr]


def test_advice_names_the_condition_that_it_is_for(assembly: Assembly) -> None:
    item = Conditioned(np.zeros((32, 32, 3), np.uint8), {"text": "word " * 40})
    said = assembly.source.advise([item], "source")
    assert len(said) == 1
    assert "source.conditions.text" in said[0]
