"""The layers of a recipe: what YAML means, how files extend one another, how overrides are laid on top."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridgeflow.config import layers
from bridgeflow.errors import BridgeflowError, UsageError

Install = Callable[..., Path]

SCALARS: list[tuple[str, Any]] = [
    ("3e-4", 3e-4),
    ("1e5", 1e5),
    ("1E+5", 1e5),
    ("1.5e3", 1500.0),
    (".5", 0.5),
    ("-.5", -0.5),
    ("1.", 1.0),
    ("-3", -3),
    ("+3", 3),
    ("010", 10),
    ("0x1f", 31),
    ("0o17", 15),
    (".inf", math.inf),
    ("-.inf", -math.inf),
    ("true", True),
    ("False", False),
    ("null", None),
    ("~", None),
    ("no", "no"),
    ("on", "on"),
    ("Yes", "Yes"),
    ("y", "y"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("2020-01-01", "2020-01-01"),
    ("=", "="),
    ("e5", "e5"),
    ("1.2.3", "1.2.3"),
    ("'3e-4'", "3e-4"),
    ("depth/blocks", "depth/blocks"),
    ("[1, 2.5, x]", [1, 2.5, "x"]),
    ("{a: {b: on}}", {"a": {"b": "on"}}),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalar_means_what_yaml_1_2_says(text: str, value: Any) -> None:
    parsed = layers.parse(text, "here")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("value", [value for _, value in SCALARS] + ["", "1e5", "12", "0o7", "null", "true", " x"])
def test_dump_and_parse_are_inverse(value: Any) -> None:
    text = layers.dump({"key": value})
    again = layers.parse(text, "here")["key"]
    assert again == value
    assert type(again) is type(value)
    # Readers of YAML 1.1 see the same.
    assert yaml.safe_load(text)["key"] == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("!!python/object/apply:os.system [x]", "python/object"),
        ("!!python/name:os.system", "python/name"),
        ("a: 1\nb: [1,\nc: 2", "line 3"),
        ("a: 1\na: 2", "line 2 is not valid YAML: the key 'a' stands twice"),
        ("a: b: c", "line 1"),
        ("*nowhere", "undefined alias 'nowhere'"),
        ("a: 1\n---\nb: 2", "another document"),
        ("\x00", "special characters"),
        ("{[1, 2]: 3}", "unhashable key"),
        ("!!int x", "cannot read"),
        ("!!bool maybe", "cannot read"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_in_one_sentence(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        layers.parse(text, "recipe 'x'")
    sentence = str(caught.value)
    assert sentence.startswith("recipe 'x'")
    assert problem in sentence
    assert "\n" not in sentence


def test_merge_keys_and_anchors_work() -> None:
    tree = layers.parse("a: &base {x: 1, y: 2}\nb: {<<: *base, y: 3}", "here")
    assert tree["b"] == {"x": 1, "y": 3}


def test_merge_lays_one_tree_over_another_and_changes_neither() -> None:
    base = {"network": {"name": "unet", "patch": 2, "channels": [1, 2]}, "task": "depth"}
    above = {"network": {"channels": [3]}, "training": {"steps": 5}}
    merged = layers.merge(base, above)
    assert merged == {
        "network": {"name": "unet", "patch": 2, "channels": [3]},
        "task": "depth",
        "training": {"steps": 5},
    }
    assert base["network"]["channels"] == [1, 2]
    assert "training" not in base


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ({"name": "sgd"}, {"name": "sgd"}),
        ({"name": "sgd", "momentum": 0.5}, {"name": "sgd", "momentum": 0.5}),
        ({"name": "adamw"}, {"name": "adamw", "betas": [0.9, 0.99]}),
        ({"betas": [0, 0]}, {"name": "adamw", "betas": [0, 0]}),
    ],
)
def test_switched_name_drops_the_siblings(above: dict[str, Any], expected: dict[str, Any]) -> None:
    base = {"optimizer": {"name": "adamw", "betas": [0.9, 0.99]}}
    assert layers.merge(base, {"optimizer": above}) == {"optimizer": expected}


def test_name_given_where_there_was_none_drops_nothing() -> None:
    assert layers.merge({"codec": {"patch": 4}}, {"codec": {"name": "pca"}}) == {"codec": {"patch": 4, "name": "pca"}}


def test_nested_switch_drops_only_its_own_level() -> None:
    base = {"source": {"size": 64, "codec": {"name": "pca", "patch": 8}}}
    merged = layers.override(base, "source.codec.name=pixels")
    assert merged == {"source": {"size": 64, "codec": {"name": "pixels"}}}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a.b=3e-4", {"a": {"b": 3e-4}}),
        ("a=x=y", {"a": "x=y"}),
        (" a.b =2", {"a": {"b": 2}}),
        ("a=", {"a": ""}),
        ("a=null", {"a": None}),
        ("a={b: [1, no]}", {"a": {"b": [1, "no"]}}),
        ("a=/some/path", {"a": "/some/path"}),
    ],
)
def test_override_reads_its_value_as_yaml(assignment: str, expected: dict[str, Any]) -> None:
    assert layers.override({}, assignment) == expected


@pytest.mark.parametrize("assignment", ["steps", "=3", "a..b=3", ".a=3", "a.=3", ""])
def test_override_of_another_form_is_refused(assignment: str) -> None:
    with pytest.raises(UsageError, match=r"is not of the form key\.path=value, such as training\.steps=500\.$"):
        layers.override({}, assignment)


def test_override_with_broken_value_names_its_key() -> None:
    with pytest.raises(UsageError, match=r"^the value of 'network\.channels', line 1 is not valid YAML"):
        layers.override({}, "network.channels=[1, 2")


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_extends_lays_a_chain_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        base="task: depth\noptimizer: {name: adamw, weight_decay: 0.5}\ntraining: {steps: 1, batch_size: 1}\n",
        middle="extends: base.yaml\ntraining: {steps: 2}\n",
        top="extends: middle.yaml\noptimizer: {name: sgd}\n",
    )
    monkeypatch.chdir("/")
    assert layers.read(str(tmp_path / "top.yaml")) == {
        "task": "depth",
        "optimizer": {"name": "sgd"},
        "training": {"steps": 2, "batch_size": 1},
    }


def test_extends_takes_an_installed_recipe(tmp_path: Path) -> None:
    write(tmp_path, mine="extends: depth/folder\ntraining: {steps: 7}\n")
    tree = layers.read(str(tmp_path / "mine.yaml"))
    assert (tree["task"], tree["data"]["name"], tree["training"]["steps"]) == ("depth", "folder", 7)
    assert "extends" not in tree


@pytest.mark.parametrize("spelling", ["a.yaml", "./a.yaml", "../{}/a.yaml"])
def test_recipe_that_extends_itself_is_refused(tmp_path: Path, spelling: str) -> None:
    write(tmp_path, a="extends: b.yaml\n", b=f"extends: {spelling.format(tmp_path.name)}\n")
    with pytest.raises(UsageError, match=r"extends itself: .*a\.yaml -> .*b\.yaml -> .*a\.yaml\.$"):
        layers.read(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("value", ["[depth/blocks]", "3", "{a: b}"])
def test_extends_names_one_recipe(tmp_path: Path, value: str) -> None:
    write(tmp_path, a=f"extends: {value}\n")
    with pytest.raises(UsageError, match=r"a\.yaml': extends names one recipe, such as depth/blocks, not"):
        layers.read(str(tmp_path / "a.yaml"))


def test_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"^no recipe 'depth/blok'\. Did you mean 'depth/blocks'\? Installed:"):
        layers.read("depth/blok")


def test_missing_file_is_named_wherever_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^no recipe file 'gone\.yaml'"):
        layers.read("gone.yaml")
    write(tmp_path, a="extends: gone.yaml\n")
    with pytest.raises(UsageError, match=rf"^no recipe file '{tmp_path}/gone\.yaml'"):
        layers.read(str(tmp_path / "a.yaml"))


def test_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("task: d\xe9pth\n".encode("latin-1"))
    with pytest.raises(BridgeflowError, match=r"a\.yaml' cannot be read .*: it must be UTF-8 text\.$") as caught:
        layers.read(str(tmp_path / "a.yaml"))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "depth"])
def test_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, a=text)
    with pytest.raises(UsageError, match="is not a mapping of keys to values"):
        layers.read(str(tmp_path / "a.yaml"))


def test_one_recipe_name_from_two_distributions_is_refused_and_can_be_chosen(install: Install) -> None:
    install(
        "acme",
        {"bridgeflow.recipes": {"acme": "acme_recipes"}},
        {"acme_recipes/depth/blocks.yaml": "task: depth\ntraining: {steps: 9}\n"},
    )
    with pytest.raises(
        UsageError, match=r"offered by acme 1\.0 and bridgeflow-torch .*: say which, as 'acme:depth/blocks'"
    ):
        layers.read("depth/blocks")
    assert layers.read("acme:depth/blocks")["training"] == {"steps": 9}
    assert layers.read("bridgeflow:depth/blocks")["network"]["name"] == "unet"


def test_extends_stays_within_its_distribution(install: Install) -> None:
    before = layers.read("depth/folder")
    install(
        "acme",
        {"bridgeflow.recipes": {"acme": "acme_recipes"}},
        {
            "acme_recipes/depth/blocks.yaml": "task: depth\ntraining: {steps: 9}\n",
            "acme_recipes/depth/own.yaml": "extends: depth/blocks\nnull_rate: 0.5\n",
        },
    )
    assert layers.read("depth/folder") == before
    assert layers.read("depth/own") == {"task": "depth", "training": {"steps": 9}, "null_rate": 0.5}


def test_recipe_names_are_those_of_the_task() -> None:
    assert layers.recipe_names("depth") == [
        f"depth/{name}" for name in ("blocks", "blocks-full", "folder", "kitti", "nyuv2", "zero-shot")
    ]
    assert {"t2i/blocks", "depth/blocks"} <= set(layers.recipe_names())
