"""Recipes: each installed one holds, and every mistake is told at once, by its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridgeflow.config import layers, recipe
from bridgeflow.config.optimizers import AdamWSettings, SGDSettings
from bridgeflow.errors import UsageError

Install = Callable[..., Path]
RECIPES = layers.recipe_names()


WRITTEN = {
    "depth.yaml": """
task: depth
source: {size: 64, codec: {name: pixels}}
target: {normalisation: {name: log, near: 1.0, far: 14.0}}
source_encoder: {name: direct}
network: {name: unet}
optimizer: {name: adamw, learning_rate: 0.5}
""",
    "t2i.yaml": """
task: t2i
source: {codec: {name: encoder}}
target: {codec: {name: pca}}
source_encoder: {name: noisy}
network: {name: dit}
""",
}


@pytest.fixture(autouse=True)
def _written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of these tests' own, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, text in WRITTEN.items():
        (tmp_path / name).write_text(text)


def mistake(name: str, *overrides: str) -> str:
    """What `load` says of overrides with one mistake, without the recipe's name."""
    with pytest.raises(UsageError) as caught:
        recipe.load(name, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    opening = f"recipe {name!r}: "
    assert sentence.startswith(opening)
    return sentence.removeprefix(opening)


def test_there_is_a_default_recipe_for_each_task() -> None:
    assert {"caption/blocks", "depth/blocks", "superres/blocks", "t2i/blocks"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_installed_recipe_resolves_and_comes_back_from_its_tree(name: str) -> None:
    resolved = recipe.load(name)
    assert resolved.task_name == name.partition("/")[0]
    again = recipe.resolve(layers.parse(resolved.yaml(), name), name)
    for part in ("task", "options", "source", "source_options", "target", "target_options", "data", "network"):
        assert getattr(again, part) == getattr(resolved, part)
    assert again.tree() == resolved.tree()
    assert recipe.resolve(again.tree(), name) == again


@pytest.mark.parametrize("name", RECIPES)
def test_first_line_of_a_recipe_says_what_it_is_for(name: str) -> None:
    file = next(file for own, file, _ in recipe.registry.recipe_files() if own == name)
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert len(first) < 100


@pytest.mark.parametrize(
    ("override", "place", "suggestion"),
    [
        ("trainin.steps=3", "trainin", "training"),
        ("training.stepps=3", "training.stepps", "steps"),
        ("training.schedule.warmpu=3", "training.schedule.warmpu", "warmup"),
        ("network.widht=3", "network.widht", "width"),
        ("source_encoder.widht=3", "source_encoder.widht", "width"),
        ("source.codec.max_lenght=3", "source.codec.max_lenght", "max_length"),
        ("target.codec.ptach=3", "target.codec.ptach", "patch"),
        ("target.sizes=3", "target.sizes", "size"),
        ("sampling.solver.step=3", "sampling.solver.step", "steps"),
        ("sampling.guidance.scael=3", "sampling.guidance.scael", "scale"),
        ("optimizer.learning_rat=3", "optimizer.learning_rat", "learning_rate"),
        ("time.densty=uniform", "time.densty", "density"),
        ("encoding.weigth=1", "encoding.weigth", "weight"),
        ("data.sede=1", "data.sede", "seed"),
    ],
)
def test_unknown_key_is_named_with_the_nearest(override: str, place: str, suggestion: str) -> None:
    assert mistake("t2i.yaml", override) == f"{place}: unknown key. Did you mean {suggestion!r}?"


def test_unknown_key_unlike_any_other_lists_what_is_known() -> None:
    assert mistake("depth.yaml", "training.schedule.zzz=1").endswith("Known here: decay, final, warmup.")
    assert (
        mistake("depth.yaml", "options.zzz=1")
        == "options.zzz: unknown key. Known here: alignment, crop, farthest, nearest."
    )


def test_keys_of_the_chosen_member_of_a_union_are_the_ones_known() -> None:
    assert mistake("depth.yaml", "optimizer={name: sgd, betas: [0, 0]}") == (
        "optimizer.betas: unknown key. Known here: learning_rate, momentum, name, weight_decay."
    )


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.steps=0", "training.steps: should be greater than or equal to 1, not 0."),
        ("training.steps=many", "training.steps: should be a whole number, not 'many'."),
        ("training.steps=1.5", "training.steps: should be a whole number, not 1.5."),
        ("training.steps=null", "training.steps: should be a whole number, not null."),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate: should be a number, not 'fast'."),
        ("optimizer.betas=[1]", "optimizer.betas.1: this value is required."),
        ("optimizer.betas=[0.1, x]", "optimizer.betas.1: should be a number, not 'x'."),
        ("null_rate=2", "null_rate: should be less than or equal to 1, not 2."),
        ("training=3", "training: should be a mapping of keys to values, not 3."),
        ("network=dit", "network: should be a mapping of keys to values, not 'dit'."),
        ("source=no", "source: should be a mapping of keys to values, not 'no'."),
        ("training.schedule.decay=step", "training.schedule.decay: should be 'cosine' or 'constant', not 'step'."),
        ("training.precision=true", "training.precision: should be 'auto', 'fp32' or 'bf16', not true."),
        ("columns.image=3", "columns.image: should be text, not 3."),
        ("codecs.sorce=x", "codecs.sorce: should be 'source' or 'target', not 'sorce'."),
        ("source.size=[1, 2, 3]", "source.size: should be a whole number or at most 2 values, not [1, 2, 3]."),
        ("source.size=x", "source.size: should be a whole number or a list, such as [1, 2], not 'x'."),
        ("target.size=[0, 1]", "target.size.0: should be greater than or equal to 1, not 0."),
        ("optimizer.name=adam", "optimizer: no optimizer 'adam'. Did you mean 'adamw'? Installed: adamw, muon, sgd."),
        ("source.codec.name=pcaa", "source.codec: no 'pcaa'. Did you mean 'pca'?"),
        ("source.codec={patch: 4}", None),
        ("source_encoder={width: 4}", None),
        (
            "source.codec=pca",
            "source.codec: should be a mapping of keys to values, not 'pca'; write 'pca' as its name.",
        ),
        ("network.name=null", "network: no name is given; one of dimr, dit, reading_dit, unet is expected."),
        ("network.name=uent", "no network 'uent'. Did you mean 'unet'? Installed: dimr, dit, reading_dit, unet."),
        (
            "data.name=blokcs",
            "no dataset 'blokcs'. Did you mean 'blocks'? Installed: blocks, cache, examples, folder, hf, "
            "recoloured_blocks, webdataset.",
        ),
        ("task=dept", "no task 'dept'. Did you mean 'depth'? Installed: caption, depth, recolour, superres, t2i."),
        ("task=3", "task: no name is given; one of caption, depth, recolour, superres, t2i is expected."),
        ("data.name=folder", "data.path: this key is required."),
    ],
)
def test_wrong_value_is_told_with_its_place_what_was_expected_and_what_was_given(
    override: str, told: str | None
) -> None:
    if told is None:
        # The base keeps its name, so the key is one of the component that the recipe chose.
        assert "unknown key" in mistake("depth.yaml", override)
    else:
        assert mistake("depth.yaml", override) == told


def test_component_without_a_name_is_the_default_one() -> None:
    Path("a.yaml").write_text("task: depth\noptimizer: {learning_rate: 0.25}\nnetwork: {depth: 3}\n")
    resolved = recipe.load("a.yaml", ["data.size=7"])
    assert resolved.keys.optimizer == AdamWSettings(learning_rate=0.25)
    tree = resolved.tree()
    assert (tree["network"]["name"], tree["network"]["depth"]) == ("dit", 3)
    assert (tree["data"]["name"], tree["data"]["size"]) == ("blocks", 7)


def test_option_of_a_plugin_without_a_name_asks_for_one() -> None:
    Path("a.yaml").write_text("task: depth\nsource: {codec: {patch: 4}}\n")
    assert mistake("a.yaml") == "source.codec: its name is missing, such as {name: ...}."


def test_keys_that_are_no_words_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: depth\n3: x\n")
    with pytest.raises(UsageError, match=r"a\.yaml': 3: "):
        recipe.load(str(tmp_path / "a.yaml"))


def test_range_between_two_keys_is_told_in_the_components_own_words() -> None:
    told = mistake("depth.yaml", "target.normalisation.far=0.1")
    assert told == "target.normalisation: near (1) must be less than far (0.1)."


def test_every_mistake_is_told_at_once() -> None:
    overrides = [
        "training.stepps=3",
        "network.wdth=3",
        "source.codec.max_length=x",
        "target.codec.ptach=3",
        "source_encoder.widht=3",
        "optimizer.name=adam",
        "data.name=blokcs",
        "frobnicate=1",
    ]
    with pytest.raises(UsageError) as caught:
        recipe.load("t2i.yaml", overrides)
    first, *lines = str(caught.value).splitlines()
    assert first == "recipe 't2i.yaml' has 8 mistakes:"
    places = {line.strip().partition(":")[0] for line in lines}
    assert places == {
        "training.stepps",
        "network.wdth",
        "source.codec.max_length",
        "target.codec.ptach",
        "source_encoder.widht",
        "optimizer",
        "no dataset 'blokcs'. Did you mean 'blocks'? Installed",
        "frobnicate",
    }


@pytest.mark.parametrize(
    "override",
    [
        "source.codec={name: pca, patch: x, components: y}",
        "target.normalisation={name: inverse, near: x, fra: 3}",
        "source_encoder={name: variational, width: x}",
        "optimizer={name: sgd, momentum: 3, betas: 1}",
        "network={name: dit, depth: x, widht: 3}",
        "source.size=[x, y]",
    ],
)
def test_places_hold_only_keys_that_the_user_wrote(override: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.load("depth.yaml", [override])
    section, _, value = override.partition("=")
    written = layers.parse(value, "here")
    keys = {str(key) for key in (written if isinstance(written, dict) else range(len(written)))}
    lines = str(caught.value).removeprefix("recipe 'depth.yaml': ").splitlines()
    places = [line.strip().partition(":")[0] for line in lines if not line.startswith("recipe ")]
    assert len(places) >= 1
    for place in places:
        assert place.removeprefix(section).removeprefix(".") in keys


def test_switching_a_component_drops_its_old_settings() -> None:
    resolved = recipe.load("depth.yaml", ["optimizer.betas=[0.1, 0.2]", "optimizer.name=sgd"])
    assert resolved.keys.optimizer == SGDSettings()
    kept = recipe.load("depth.yaml", ["optimizer.betas=[0.1, 0.2]", "optimizer.name=adamw"]).keys.optimizer
    assert isinstance(kept, AdamWSettings)
    assert kept.betas == (0.1, 0.2)
    assert recipe.load("depth.yaml", ["network.name=dit"]).tree()["network"]["name"] == "dit"


def test_overrides_are_laid_on_in_order_over_data_and_columns() -> None:
    resolved = recipe.load(
        "depth.yaml",
        ["training.steps=5", "training.steps=6", "data.held_out=0.25"],
        "folder:/some/place",
        {"image": "photo"},
    )
    assert resolved.training.steps == 6
    assert resolved.data.model_dump() == {"path": "/some/place", "follow_links": False, "held_out": 0.25}
    assert resolved.columns == {"image": "photo"}


def test_options_of_the_task_lie_under_those_of_the_recipe() -> None:
    stretched = recipe.load("depth.yaml")
    assert stretched.source_options.resize == "stretch"  # type: ignore[attr-defined]
    assert recipe.load("caption/blocks").source_options.resize == "crop"  # type: ignore[attr-defined]
    cropped = recipe.load("depth.yaml", ["source.resize=crop"])
    assert cropped.source_options.resize == "crop"  # type: ignore[attr-defined]


def test_changed_checks_again() -> None:
    resolved = recipe.load("depth.yaml")
    assert resolved.changed(training={"steps": 3}).training.steps == 3
    assert resolved.training.steps != 3
    with pytest.raises(UsageError, match=r"training\.stepps"):
        resolved.changed(training={"stepps": 3})


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("blocks", {"name": "blocks"}),
        ("folder:x", {"name": "folder", "path": "x"}),
        ("folder:a:b/c d", {"name": "folder", "path": "a:b/c d"}),
        ("hf:acme/set", {"name": "hf", "path": "acme/set"}),
        ("hf:acme/set:small", {"name": "hf", "path": "acme/set", "config": "small"}),
    ],
)
def test_data_argument_means_a_section(text: str, section: dict[str, str]) -> None:
    assert recipe.data_section(text) == section


def test_data_argument_that_is_a_folder_suggests_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"For a folder of your own write --data folder:photos\.$"):
        recipe.data_section("photos")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "fodler:x",
            "no dataset 'fodler'. Did you mean 'folder'? Installed: blocks, cache, examples, folder, hf, "
            "recoloured_blocks, webdataset.",
        ),
        ("", "no dataset ''. Installed: blocks, cache, examples, folder, hf, recoloured_blocks, webdataset."),
        ("blocks:3", "--data 'blocks:3': this data set takes no location, so leave '3' out."),
    ],
)
def test_data_argument_that_names_nothing_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.data_section(text)
    assert str(caught.value) == told


def test_plugin_that_cannot_be_loaded_is_one_mistake_among_the_others(install: Install) -> None:
    install("acme", {"bridgeflow.networks": {"odd": "acme_odd:Net"}}, {"acme_odd.py": "raise ValueError('no')"})
    with pytest.raises(UsageError) as caught:
        recipe.load("depth.yaml", ["network.name=odd", "training.stepps=1"])
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        "  training.stepps: unknown key. Did you mean 'steps'?",
        "  the network 'odd' of acme 1.0 cannot be loaded (ValueError: no): "
        "pip install --force-reinstall --no-deps acme, or leave it out with BRIDGEFLOW_PLUGINS.",
    ]


def test_a_nested_component_keeps_its_default_where_only_its_keys_are_given() -> None:
    resolved = recipe.load("t2i/blocks", ["encoding.name=cross", "encoding.tower.width=16"])
    assert (resolved.keys.encoding.tower.name, resolved.keys.encoding.tower.width) == ("tokens", 16)
    assert resolved.keys.encoding.name == "cross"
