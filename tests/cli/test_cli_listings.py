"""What is installed: listed quickly, without importing what is heavy, for people and for programs."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgeflow.config import layers

Call = Callable[..., Any]
Install = Callable[..., Path]

QUICK = [["--help"], ["tasks", "list"], ["recipes", "list"], ["plugins", "list"]]
HEAVY = ("torch", "pydantic", "numpy", "transformers", "datasets", "PIL", "bridgeflow_tasks", "bridgeflow_plugins")


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_help_and_lists_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from bridgeflow.cli.main import invoke\n"
        f"code = invoke({arguments!r})\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert len(done.stdout.splitlines()) >= 4


def processor_seconds() -> float:
    """Seconds that children of this process kept a core busy: those of the clock on an idle one, and steady on a
    busy one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_help_and_lists_answer_in_under_three_tenths_of_a_second(arguments: list[str]) -> None:
    seconds = []
    for _ in range(10):
        before = processor_seconds()
        subprocess.run([sys.executable, "-m", "bridgeflow", *arguments], stdout=subprocess.DEVNULL, check=True)
        seconds.append(processor_seconds() - before)
    assert 0.01 < statistics.median(seconds) < 0.3


def test_tasks_list_tells_recipes_and_origin(bridgeflow: Call) -> None:
    found = {row["task"]: row for row in json.loads(bridgeflow("tasks", "list", "--json").out)}
    assert set(found) == {"caption", "depth", "recolour", "superres", "t2i"}
    assert (
        found["depth"]["recipes"]
        == "depth/blocks, depth/blocks-full, depth/folder, depth/kitti, depth/nyuv2, depth/zero-shot"
    )
    assert found["depth"]["distribution"].startswith("bridgeflow-torch ")
    lines = bridgeflow("tasks", "list").out.splitlines()
    assert lines[0].split() == ["task", "recipes", "distribution"]
    assert [line.split()[0] for line in lines[1:]] == ["caption", "depth", "recolour", "superres", "t2i"]


def test_recipes_list_tells_what_each_is_for(bridgeflow: Call) -> None:
    found = json.loads(bridgeflow("recipes", "list", "--json").out)
    assert [row["recipe"] for row in found] == layers.recipe_names()
    assert all(row["about"].endswith(".") and len(row["about"]) > 20 for row in found)
    own = json.loads(bridgeflow("recipes", "list", "--task", "depth", "--json").out)
    assert [row["recipe"] for row in own] == layers.recipe_names("depth")


def test_recipes_show_is_a_recipe_again(bridgeflow: Call, tmp_path: Path) -> None:
    shown = bridgeflow("recipes", "show", "depth/folder").out
    assert layers.parse(shown, "shown") == layers.read("depth/folder")
    assert "training.keep" not in shown
    resolved = bridgeflow("recipes", "show", "depth/folder", "--resolved").out
    (tmp_path / "whole.yaml").write_text(resolved)
    assert bridgeflow("recipes", "show", "whole.yaml", "--resolved").out == resolved
    assert layers.parse(resolved, "shown")["training"]["keep"] == 2
    assert json.loads(bridgeflow("recipes", "show", "depth/folder", "--json").out) == layers.read("depth/folder")


def test_plugins_list_shows_foreign_ones_without_importing_them(bridgeflow: Call, install: Install) -> None:
    install(
        "acme", {"bridgeflow.tasks": {"bad": "acme_list:T"}}, {"acme_list.py": "raise ValueError('no')"}, version="4.2"
    )
    told = json.loads(bridgeflow("plugins", "list", "--no-load", "--json").out)
    row = next(r for r in told if r["name"] == "bad")
    expected = {"kind": "task", "name": "bad", "distribution": "acme", "version": "4.2", "object": "acme_list:T"}
    assert row == {**expected, "status": "not loaded", "cause": "", "notes": []}
    assert "acme_list" not in sys.modules
    kinds = {r["kind"] for r in json.loads(bridgeflow("plugins", "list", "--kind", "network", "--json").out)}
    assert kinds == {"network"}
    (own,) = json.loads(bridgeflow("plugins", "list", "--kind", "importer", "--json").out)
    assert own["name"] == "crossflow"


def test_plugins_info_tells_options_with_defaults_and_help(bridgeflow: Call) -> None:
    outcome = bridgeflow("plugins", "info", "unet", "--json")
    (facts,) = json.loads(outcome.out)
    assert facts["kind"] == "network"
    assert facts["object"] == "bridgeflow.nn.unet:UNetSettings"
    options = {option["key"]: option for option in facts["options"]}
    assert options["patch"]["default"] == 1
    assert all(option["help"] for key, option in options.items() if key != "name")
    assert "patch = 1" in bridgeflow("plugins", "info", "unet").out


def test_plugins_info_tells_each_of_one_name(bridgeflow: Call) -> None:
    kinds = {fact["kind"] for fact in json.loads(bridgeflow("plugins", "info", "depth", "--json").out)}
    assert kinds == {"modality", "task"}
    (only,) = json.loads(bridgeflow("plugins", "info", "depth", "--kind", "task", "--json").out)
    assert (only["source"], only["target"], only["default recipe"]) == ("image_latent", "depth", "depth/blocks")


def test_every_own_plugin_has_a_line_on_what_it_is(bridgeflow: Call) -> None:
    for row in json.loads(bridgeflow("plugins", "list", "--json").out):
        if row["kind"] != "recipe":
            (facts,) = json.loads(bridgeflow("plugins", "info", row["name"], "--kind", row["kind"], "--json").out)
            assert len(facts["about"]) > 10, row["name"]


def test_doctor_names_the_broken_plugin_and_fails(bridgeflow: Call, install: Install) -> None:
    well = bridgeflow("doctor", "--json")
    assert (well.code, json.loads(well.out)["problems"]) == (0, [])
    install(
        "acme",
        {"bridgeflow.tasks": {"bad": "acme_doc:T"}, "bridgeflow.recipes": {"gone": "acme_recipes_gone"}},
        {"acme_doc.py": "import nonesuch_lib"},
    )
    ill = bridgeflow("doctor")
    assert ill.code == 1
    assert "the task 'bad' of acme 1.0 cannot be loaded" in ill.out
    assert "install what has the module 'nonesuch_lib'" in ill.out
    assert "the recipe 'gone' of acme 1.0 cannot be loaded" in ill.out


def test_a_recipe_that_cannot_be_read_leaves_the_others_listed(bridgeflow: Call, install: Install) -> None:
    files = {"acme_pack/depth/mine.yaml": "# Mine.\ntask: depth\n", "acme_pack/depth/shut.yaml": "# Shut.\n"}
    folder = install("acme", {"bridgeflow.recipes": {"acme": "acme_pack"}}, files) / "acme_pack" / "depth"
    (folder / "gone.yaml").symlink_to("nowhere")
    (folder / "shut.yaml").unlink()
    (folder / "shut.yaml").mkdir()
    listed = bridgeflow("recipes", "list", "--task", "bridgeflow:depth", "--json")
    assert listed.code == 0, listed.err
    assert {row["recipe"]: row["about"] for row in json.loads(listed.out)}["depth/mine"] == "Mine."
    assert "depth/gone" not in listed.out
