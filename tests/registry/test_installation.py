"""This distribution is bridgeflow-torch: nothing asks pip for the other project that is called bridgeflow."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bridgeflow
from bridgeflow import registry
from bridgeflow.checkpoints.checkpoint import open_checkpoint
from bridgeflow.cli.main import invoke
from bridgeflow.registry import PluginError, entry_points, installation, probe
from bridgeflow.registry.installation import FORMER_NAME, OWN_DISTRIBUTION
from bridgeflow.registry.requirements import check_installed
from bridgeflow.scaffold import KINDS, scaffold

Install = Callable[..., Path]

ROOT = Path(__file__).resolve().parents[2]
ENDINGS = {".py", ".md", ".toml", ".template", ".yaml", ".yml", ".txt", ".cfg", ".sh", ""}
BARE = r"(?<![\w./:-])bridgeflow(?![\w./:-])"
ASKED = [
    # pip is given the name, in one line or as the first word after its options.
    re.compile(rf"\b(?:pip3?|pipx|uv) (?:pip )?(?:install|download|wheel|add|run)\b[^`\n]*?{BARE}"),
    re.compile(rf"\b(?:pip3?|pipx|uv)\s+(?:pip\s+)?(?:install|download|wheel|add|run)(?:\s+-[\w-]+)*\s+[\"']?{BARE}"),
    # The name with extras or a version, or in a list of what something requires.
    re.compile(r"\bbridgeflow\[[a-z]|[\"']bridgeflow *(?:[<>=~!]=|[<>@;])"),
    re.compile(rf"(?:dependencies|requires|dev) *= *\[[^\]]*[\"']{BARE}"),
    re.compile(rf"^Requires-Dist: {BARE}", re.MULTILINE),
]


def texts() -> Iterator[tuple[Path, str]]:
    """Every file of text in the tree but this one; caches of tools lie in folders with a dot."""
    tops = [ROOT / name for name in ("bridgeflow", "plugins", "tasks", "recipes", "docs", "tests", ".ci")]
    files = [file for top in tops for file in top.rglob("*")] + list(ROOT.iterdir())
    for file in files:
        place = file.relative_to(ROOT)
        is_cache = any(part.startswith(".") or part == "__pycache__" for part in place.parts[1:])
        if file.is_file() and file.suffix in ENDINGS and not is_cache and file != Path(__file__):
            yield place, file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "run `pip install bridgeflow` first",
        'pip install "bridgeflow>=0.1"',
        "pip install numpy bridgeflow",
        "pip install --upgrade\n    bridgeflow",
        "pip3 install 'bridgeflow[fid]'",
        "uv pip install bridgeflow",
        'dependencies = ["numpy", "bridgeflow"]',
        'dependencies = [\n  "numpy",\n  "bridgeflow>=0.1,<1",\n]',
        'dev = ["bridgeflow[docs]"]',
        "Requires-Dist: bridgeflow",
    ],
)
def test_what_asks_for_the_bare_name_is_recognised(text: str) -> None:
    assert any(pattern.search(text) for pattern in ASKED)
    assert not any(pattern.search(text.replace("bridgeflow", OWN_DISTRIBUTION)) for pattern in ASKED)


def test_nothing_in_the_tree_asks_for_the_bare_name() -> None:
    found = [(str(file), asked[0]) for file, text in texts() for pattern in ASKED for asked in pattern.finditer(text)]
    assert found == []
    seen = {file.as_posix() for file, _ in texts()}
    assert {"README.md", "Makefile", "docs/index.md", "bridgeflow/scaffold/templates/task/README.md.template"} <= seen


def required(project: Path) -> set[str]:
    """The names that a pyproject.toml asks pip for."""
    told = tomllib.loads(project.read_text(encoding="utf-8"))
    lists = [told["build-system"]["requires"], told["project"]["dependencies"]]
    lists += told["project"].get("optional-dependencies", {}).values()
    return {installation.normal(re.split(r"[\[<>=~!@; ]", line)[0]) for own in lists for line in own}


def test_distributions_that_are_made_and_shown_require_this_one(tmp_path: Path) -> None:
    made = [scaffold(f"new_{kind}", kind, tmp_path).folder for kind in KINDS]
    shown = [file.parent for file in (ROOT / "docs" / "examples").glob("*/pyproject.toml")]
    assert len(shown) == 5
    for folder in (*made, *shown):
        names = required(folder / "pyproject.toml")
        assert OWN_DISTRIBUTION in names, folder
        assert FORMER_NAME not in names, folder
    assert FORMER_NAME not in required(ROOT / "pyproject.toml")


def test_the_installed_distribution_is_the_named_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["name"], project["version"]) == (OWN_DISTRIBUTION, bridgeflow.__version__)
    assert importlib.metadata.version(OWN_DISTRIBUTION) == bridgeflow.__version__
    assert {p.distribution for p in registry.installed() if probe.is_own(p)} == {OWN_DISTRIBUTION}


def test_no_plugin_is_made_that_would_be_this_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["plugins", "new", "torch"]) == 2
    assert "'torch' is taken, for bridgeflow-torch is bridgeflow itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("from bridgeflow.modality import OfTomorrow\n", "made for another bridgeflow than this one"),
        ("from bridgeflow_plugins.tomorrow import Thing\n", "made for another bridgeflow than this one"),
        ("import nonesuch_lib\n", "pip install nonesuch-lib."),
    ],
)
def test_a_broken_plugin_that_requires_the_bare_name_is_mended_without_it(
    install: Install, source: str, fix: str
) -> None:
    folder = install("acme", {"bridgeflow.tasks": {"bad": "acme_old:T"}}, {"acme_old.py": source})
    with (folder / "acme-1.0.dist-info" / "METADATA").open("a") as metadata:
        metadata.write("Requires-Dist: bridgeflow>=0.1\nRequires-Dist: nonesuch-lib\n")
    registry.forget()
    with pytest.raises(PluginError) as caught:
        registry.load("task", "bad")
    assert fix in str(caught.value)
    assert not any(pattern.search(str(caught.value)) for pattern in ASKED)


def test_a_plugin_of_ours_that_fails_is_named_by_this_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    (depth,) = registry.offering("task", "depth")
    sentence = registry.failure(depth, ValueError("x"))
    assert sentence.startswith(f"the task 'depth' of {OWN_DISTRIBUTION} {bridgeflow.__version__} cannot be loaded")
    monkeypatch.setattr(installation, "installed_distribution", lambda name: None)
    again = f"install {OWN_DISTRIBUTION} again from where it came"
    assert [installation.reinstall_command(name) for name in (OWN_DISTRIBUTION, FORMER_NAME)] == [again, again]


def test_a_lacking_plugin_of_an_older_checkpoint_is_asked_of_this_distribution() -> None:
    note = {"kind": "network", "name": "gone", "distribution": FORMER_NAME, "version": "0.0.1"}
    with pytest.raises(bridgeflow.BridgeflowError) as caught:
        check_installed(plugins_of({"plugins": [note]}), "checkpoint 'old'")
    assert str(caught.value) == (
        f"checkpoint 'old' needs the network 'gone' of {OWN_DISTRIBUTION} 0.0.1, which version "
        f"{bridgeflow.__version__}, installed here, does not offer: use {OWN_DISTRIBUTION} 0.0.1."
    )


def plugins_of(meta: dict[str, object]) -> list[dict[str, object]]:
    from bridgeflow.checkpoints.checkpoint import Checkpoint

    return Checkpoint(Path("old"), meta).plugins


INSTALLED_MODELS = [name for name, *_ in registry.recipe_files() if registry.shipped(name)]


@pytest.mark.parametrize("name", INSTALLED_MODELS)
def test_a_checkpoint_that_notes_the_former_name_is_complete(name: str, tmp_path: Path) -> None:
    shipped = registry.shipped(name)
    assert shipped is not None
    meta = json.loads((shipped / "meta.json").read_text(encoding="utf-8"))
    for note in meta["plugins"]:
        note["distribution"] = FORMER_NAME
    # What is changed here does not fit the sizes and sums that it was sealed with.
    for sealed in ("seal", "files", "checksums"):
        meta.pop(sealed, None)
    for file in shipped.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "meta.json").unlink()
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    recipe = (shipped / "recipe.yaml").read_text(encoding="utf-8")
    task = meta["task"]
    (tmp_path / "recipe.yaml").unlink()
    (tmp_path / "recipe.yaml").write_text(recipe.replace(f"task: {task}\n", f"task: {FORMER_NAME}:{task}\n", 1))
    older = open_checkpoint(tmp_path)
    assert older.notes() == []
    assert {plugin["distribution"] for plugin in older.plugins} == {OWN_DISTRIBUTION}
    assert {plugin.distribution for plugin in older.recipe().plugins()} == {OWN_DISTRIBUTION}


def test_six_models_are_installed() -> None:
    assert len(INSTALLED_MODELS) == 6


def test_the_former_name_means_this_distribution_wherever_one_is_named(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("acme", {"bridgeflow.tasks": {"depth": "acme_rival:T"}}, {"acme_rival.py": "class T: ..."})
    assert registry.find("task", "bridgeflow:depth").distribution == OWN_DISTRIBUTION
    assert registry.find("task", "depth", FORMER_NAME).distribution == OWN_DISTRIBUTION
    assert bridgeflow.recipes["bridgeflow:depth/blocks"]["task"] == f"{OWN_DISTRIBUTION}:depth"
    for allowed in (FORMER_NAME, OWN_DISTRIBUTION, "acme"):
        monkeypatch.setenv("BRIDGEFLOW_PLUGINS", allowed)
        registry.forget()
        assert len(registry.offering("task", "depth")) == (2 if allowed == "acme" else 1)
    assert invoke(["recipes", "list", "--task", "bridgeflow:depth"]) == 0
    assert "depth/blocks" in capsys.readouterr().out


def test_what_an_installation_under_the_former_name_left_behind_offers_nothing_twice(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"bridgeflow.tasks": {"depth": "bridgeflow_tasks.depth:Gone"}}
    folder = install(FORMER_NAME, points, version="0.0.9")
    (depth,) = registry.offering("task", "depth")
    assert (depth.distribution, depth.version) == (OWN_DISTRIBUTION, bridgeflow.__version__)
    alone = list(importlib.metadata.distributions(path=[str(folder)]))
    monkeypatch.setattr(entry_points, "distributions", lambda: alone)
    registry.forget()
    (depth,) = registry.installed()
    assert (depth.distribution, depth.version) == (OWN_DISTRIBUTION, "0.0.9")


def test_doctor_names_a_distribution_that_takes_the_place_of_the_package(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "loaded", lambda plugins: {})
    monkeypatch.setattr("bridgeflow.runtime.precision.choose_precision", lambda asked, device: "fp32")
    assert invoke(["doctor"]) == 0, capsys.readouterr().out
    capsys.readouterr()
    install(FORMER_NAME, {}, {"bridgeflow.txt": ""}, version="0.4.0")
    assert invoke(["doctor"]) == 1
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith(
        "the distribution bridgeflow 0.4.0 is installed too, and its package 'bridgeflow' may replace that of "
        "bridgeflow-torch: pip uninstall bridgeflow, then install bridgeflow-torch again"
    )
    assert told.endswith(".")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if f"site-{FORMER_NAME}-" not in place])
    assert installation.other_project() is None
