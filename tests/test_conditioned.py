"""Tasks with several sources: their items, latents and codecs as one modality, and what a bridge makes of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bridgeflow.assembly import Assembly, assemble, latents_known
from bridgeflow.assembly.codec_files import save_codec
from bridgeflow.assembly.preparing import open_rows, prepare_codecs
from bridgeflow.bridge import Bridge
from bridgeflow.caching.encoding import latent_of, tensors_of
from bridgeflow.conditioned import Conditioned, ConditionedModality, fault_of_name
from bridgeflow.config import layers
from bridgeflow.config import recipe as recipes
from bridgeflow.data.advice import advice
from bridgeflow.data.encoding import encode
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.inference.arithmetic import mix, sums
from bridgeflow.inference.pictures import comparison
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Latent
from bridgeflow.runtime.console import Progress

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
        (
            "source.conditions.depth.size=8",
            r"source\.conditions\.depth: the task has no such condition; text is expected",
        ),
        ("source.conditions.text.codec.max_length=0", r"source\.conditions\.text\.codec\.max_length"),
        ("source.conditions=5", r"source\.conditions: should be a mapping of keys to values, not 5"),
        (
            "source.conditions.text=hello",
            r"source\.conditions\.text: should be a mapping of keys to values, not 'hello'",
        ),
        ("source.conditions.text=null", r"source\.conditions\.text: should be a mapping of keys to values, not None"),
        ("conditioning.added=[depth]", r"conditioning\.added: 'depth' is no condition of the task, which has text"),
        ("conditioning.added=[text]", "'text', whose latent is sequence 12x384, but what is added has to be a grid"),
    ],
)
def test_a_mistake_in_a_condition_is_named(override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        assemble(recipes.load("recolour/blocks", (override,))).build_bridge()


def test_a_task_without_conditions_takes_none() -> None:
    with pytest.raises(UsageError, match="conditions"):
        recipes.load("depth/blocks", ("source.conditions.text.size=8",))
    with pytest.raises(UsageError, match="no condition of the task, which has none"):
        recipes.load("depth/blocks", ("conditioning.added=[text]",))


def test_an_input_needs_every_condition_and_no_other(assembly: Assembly) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    read = assembly.source.read(Conditioned(picture, {"text": "make the cube red"}))
    assert read.conditions == {"text": "make the cube red"}
    with pytest.raises(UsageError, match="needs 'text' beside its input: give it with --with text=VALUE"):
        pipeline_of(assembly).read(picture)
    with pytest.raises(BridgeflowError, match="is made from a ndarray"):
        assembly.source.read(picture)
    with pytest.raises(UsageError, match="has no condition 'depth': it takes text"):
        assembly.source.read(Conditioned(picture, {"text": "a", "depth": picture}))


def test_the_velocity_depends_on_what_is_attended_to_and_null_rows_do_not(assembly: Assembly) -> None:
    bridge = random_bridge(assembly)
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
    assert not bridge.source_encoder.takes_any_size
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


FITTED = (
    "data={name: examples, task: recolour, size: 24}",
    "source.codec={name: pca, patch: 8, components: 8}",
    "target.codec={name: pca, patch: 8, components: 8}",
    "source.conditions.text.codec={name: autoencoder, steps: 2, width: 16, channels: 4}",
    "network={name: dit, width: 16, depth: 1, heads: 1}",
)


def test_codecs_of_every_part_are_fitted_kept_and_restored(tmp_path: Path) -> None:
    recipe = recipes.load("recolour/blocks", (*SMALL[2:], *FITTED))
    assembly = assemble(recipe)
    assert list(assembly.parts) == list(recipe.uses) == ["source", "source.conditions.text", "target"]
    assert latents_known(assembly)
    prepare_codecs(assembly, open_rows(recipe, "train", Progress(quiet=True)), Progress(quiet=True))
    assert not assembly.source.needs_fit
    source = assembly.source
    assert isinstance(source, ConditionedModality)
    # Both pictures have one codec, which is fitted once.
    assert source.start.fingerprint() == assembly.target.fingerprint()
    for place, modality in assembly.parts.items():
        save_codec(modality, tmp_path / place, {})
    named = {place: str(tmp_path / place) for place in assembly.parts}
    fresh = assemble(recipe.changed(codecs=named))
    assert fresh.source.fingerprint() == source.fingerprint()
    found, expected = encoded(fresh), encoded(assembly)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.conditions["text"].mean, expected.conditions["text"].mean)
    with pytest.raises(
        UsageError, match=r"codecs\.words: should be 'source', 'source\.conditions\.text' or 'target', not 'words'"
    ):
        recipe.changed(codecs={"words": "a"})
    other = recipe.changed(source={"conditions": {"text": {"codec": {"channels": 8}}}}, codecs=named)
    with pytest.raises(BridgeflowError, match="was fitted with codec"):
        assemble(other)


def random_bridge(assembly: Assembly, seed: int = 0) -> Bridge:
    torch.manual_seed(seed)
    bridge = assembly.build_bridge().eval()
    for parameter in bridge.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return bridge


def pipeline_of(assembly: Assembly, seed: int = 0) -> Pipeline:
    return Pipeline(assembly, random_bridge(assembly, seed))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def test_sums_of_pictures_keep_the_words_of_the_first(assembly: Assembly) -> None:
    pipeline = pipeline_of(assembly)
    one, other = (pipeline.read(picture(seed), {"text": "make the cube red"}) for seed in (0, 1))
    blank = pipeline.read(picture(1), {"text": "make the cone blue"})
    terms = [random_bridge(assembly).encode(encoded_of(assembly, item)) for item in (one, other)]
    difference = mix(terms, [sums(0, 1)])
    assert torch.equal(difference.conditions, terms[0].conditions)  # type: ignore[arg-type]
    (minus,), (same,) = pipeline.combine([one], minus=[other]), pipeline.combine([one], minus=[blank])
    assert np.array_equal(minus[0], same[0])
    # On the way from one to another the words change with the picture.
    (way,) = pipeline.interpolate([one], blank, frames=3)
    assert np.array_equal(way[0], pipeline.generate([one])[0][0])
    assert np.array_equal(way[2], pipeline.generate([blank])[0][0])


def encoded_of(assembly: Assembly, item: Conditioned) -> Latent:
    return encode(assembly.source, assembly.source.collate([item]), torch.device("cpu"))


def test_a_weaker_model_attends_to_its_own_tokens(assembly: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = pipeline_of(assembly)
    weak = random_bridge(assembly, seed=1)
    pipeline.stages.weak = weak
    item = pipeline.read(picture(0), {"text": "make the cube red"})
    seen = []
    own = weak.velocity_in
    monkeypatch.setattr(weak, "velocity_in", lambda start, *rest: seen.append(start) or own(start, *rest))
    pipeline.generate([item])
    expected = weak.encode(encoded_of(assembly, item))
    assert torch.allclose(seen[0].conditions, expected.conditions, atol=1e-6)


def test_an_input_may_have_conditions_of_its_own(assembly: Assembly) -> None:
    pipeline = pipeline_of(assembly)
    words = ["make the cube red", "make the cone blue"]
    given = [Conditioned(picture(0), {"text": own}) for own in words]
    found = pipeline(given)
    for result, own in zip(found, words, strict=True):
        assert np.abs(result.astype(int) - pipeline(picture(0), conditions={"text": own})).max() <= 1
    with pytest.raises(UsageError, match="has no condition 'depth'"):
        pipeline(Conditioned(picture(0), {"text": "a", "depth": picture(0)}))


def test_a_condition_that_is_not_finite_is_named(assembly: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    words = assembly.source.conditions["text"]
    own = words.encode

    def spoilt(batch: dict[str, torch.Tensor]) -> Latent:
        latent = own(batch)
        return Latent(latent.mean * torch.nan, mask=latent.mask)

    monkeypatch.setattr(words, "encode", spoilt)
    pipeline = pipeline_of(assembly)
    with pytest.raises(BridgeflowError, match="numbers that are not finite"):
        pipeline(picture(0), conditions={"text": "a"})


def test_a_fault_of_a_part_is_blamed_on_it(assembly: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    words = assembly.source.conditions["text"]
    monkeypatch.setattr(words, "encode", lambda batch: Latent(torch.zeros(3, 3, 5)))
    with pytest.raises(BridgeflowError, match=r"`encode` of the modality 'text' of .* gave \(B, 3, 5\)"):
        encoded(assembly)


@pytest.mark.parametrize("item", [np.zeros((32, 32, 3), np.uint8), "words"])
def test_items_that_are_no_conditioned_ones_say_so(assembly: Assembly, item: Any) -> None:
    with pytest.raises(
        BridgeflowError, match=r"give a bridgeflow\.conditioned\.Conditioned\(start, \{'text': \.\.\.\}\)"
    ):
        assembly.source.collate([item])
    with pytest.raises(UsageError, match="needs 'text'"):
        assembly.source.collate([Conditioned(item, {})])


@pytest.mark.parametrize("name", ["type", "items", "Text", "a.b", "a/b", ""])
def test_names_that_modules_cannot_have_are_refused(name: str) -> None:
    assert fault_of_name(name) is not None
    assert fault_of_name("text") is fault_of_name("depth_map") is None


def test_workers_get_it_by_pickle(assembly: Assembly) -> None:
    copy = pickle.loads(pickle.dumps(assembly.source))
    assert copy.fingerprint() == assembly.source.fingerprint()


def test_the_pictures_of_an_item_show_every_part(assembly: Assembly) -> None:
    source = assembly.source
    item = source.example(np.random.default_rng(0))
    shown = source.previews(item)
    assert list(shown) == ["source", "text"]
    assert shown["source"].tobytes() == source.preview(item).tobytes() != shown["text"].tobytes()
    sheet = comparison(source, assembly.target, [item], [item.start], [item.start])
    assert sheet.width > 4 * 128


def test_advice_names_the_condition_that_it_is_for(assembly: Assembly) -> None:
    class Rows(list[dict[str, Any]]):
        columns, fingerprint, description = ("image", "text", "edited"), "0", "a row"

    row = {"image": picture(0), "text": "word " * 40, "edited": picture(0)}
    (said,) = advice(Rows([row]), assembly.task, {})
    assert "source.conditions.text" in said
