"""`bridgeflow plugins new`: names, files, what it refuses, and what linters say of what it makes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bridgeflow.cli.main import invoke
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.scaffold import KINDS, TEMPLATES, Kind, scaffold

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "name", ["edges", "edge_maps", "latent", "modality", "none", "x2", "any", "class", "true", "null", "on"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_whole(tmp_path: Path, name: str, kind: Kind) -> None:
    made = scaffold(name, kind, tmp_path)
    assert made.folder == tmp_path / f"bridgeflow-{name}"
    found = {path.relative_to(made.folder) for path in made.folder.rglob("*") if path.is_file()}
    assert found == set(made.files)
    assert len(found) == (9 if kind == "modality" else 8)
    for file in made.files:
        text = (made.folder / file).read_text(encoding="utf-8")
        assert "{{" not in text, file
        assert "NAME" not in file.as_posix()
        if file.suffix == ".py":
            ast.parse(text)
        if file.suffix == ".yaml":
            recipe = yaml.safe_load(text)
            assert recipe["task"] == recipe["data"]["task"] == made.task
            assert file.as_posix().endswith(f"recipes/{made.task}/examples.yaml")


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [("edge_maps", "modality", "EdgeMaps"), ("modality", "modality", "ModalityPlugin"), ("none", "task", "NonePlugin")],
)
def test_entry_points_name_what_is_there(tmp_path: Path, name: str, kind: Kind, own: str) -> None:
    made = scaffold(name, kind, tmp_path)
    project = tomllib.loads((made.folder / "pyproject.toml").read_text())["project"]
    points = {name: value for group in project["entry-points"].values() for name, value in group.items()}
    expected = {name: f"bridgeflow_{name}:{own}", f"bridgeflow-{name}": f"bridgeflow_{name}.recipes"}
    if kind == "modality":
        expected[f"{name}_to_image"] = f"bridgeflow_{name}.task:{own}ToImage"
    assert points == expected
    for value in points.values():
        module, _, thing = value.partition(":")
        file = made.folder / "src" / module.replace(".", "/")
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        classes = {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}
        assert not thing or thing in classes


def test_a_class_takes_no_name_that_its_module_uses(tmp_path: Path) -> None:
    made = scaffold("latent", "modality", tmp_path)
    body = ast.parse((made.folder / "src/bridgeflow_latent/__init__.py").read_text()).body
    imported = {alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    defined = {node.name for node in body if isinstance(node, ast.ClassDef)}
    assert "Latent" in imported
    assert defined == {"LatentPlugin", "LatentPluginOptions"}


@pytest.mark.parametrize("name", ["Edges", "2d", "edge-maps", "edges_", "_edges", "été", "a b", "", "../up"])
def test_refuses_what_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is no name for a plugin: small letters, digits and underscores"):
        scaffold(name, "modality", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind", "taken"),
    [
        ("depth", "modality", r"the modality 'depth' of bridgeflow-torch 0"),
        ("t2i", "task", r"the task 't2i' of bridgeflow-torch 0"),
        ("recipes", "task", "the installed package bridgeflow_recipes"),
    ],
)
def test_refuses_a_name_that_is_taken(tmp_path: Path, name: str, kind: Kind, taken: str) -> None:
    with pytest.raises(UsageError, match=rf"the name '{name}' is taken by {taken}.*: choose another\.$"):
        scaffold(name, kind, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_task_that_another_distribution_has(tmp_path: Path, install: Callable[..., Path]) -> None:
    install("acme", {"bridgeflow.tasks": {"wave_to_image": "acme:Wave"}}, version="2.1")
    with pytest.raises(UsageError, match=r"taken by the task 'wave_to_image' of acme 2\.1: choose another"):
        scaffold("wave", "modality", tmp_path / "new")
    # The task alone would be called otherwise.
    assert scaffold("wave", "task", tmp_path / "new").task == "wave"


def test_never_writes_into_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "bridgeflow-edges").mkdir()
    with pytest.raises(BridgeflowError, match=r"bridgeflow-edges is there already: choose another name, or another pl"):
        scaffold("edges", "modality", tmp_path)
    assert list((tmp_path / "bridgeflow-edges").iterdir()) == []


def test_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BridgeflowError, match=r"file/bridgeflow-edges cannot be written \(Not a directory\): choose"):
        scaffold("edges", "modality", tmp_path / "file")


def test_command_prints_what_it_made_and_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["plugins", "new", "edges", "-o", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "made mine/bridgeflow-edges"
    assert "  src/bridgeflow_edges/recipes/edges_to_image/examples.yaml" in lines
    assert lines[lines.index("next:") + 1 :] == [
        "  cd mine/bridgeflow-edges",
        "  pip install -e .",
        "  bridgeflow plugins check edges",
        "  bridgeflow train --task edges_to_image",
    ]
    assert invoke(["plugins", "new", "edges", "-o", "my own"]) == 0
    assert "  cd 'my own/bridgeflow-edges'" in capsys.readouterr().out.splitlines()
    assert invoke(["plugins", "new", "Edges"]) == 2
    assert capsys.readouterr().err.startswith("bridgeflow: 'Edges' is no name for a plugin")


def test_making_one_imports_neither_torch_nor_pydantic(tmp_path: Path) -> None:
    code = (
        "import sys; from bridgeflow.cli.main import invoke; code = invoke(['plugins', 'new', 'edges'])\n"
        "sys.exit(code or bool({'torch', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_every_template_is_one() -> None:
    files = [path for path in TEMPLATES.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".template"}


def strict_as_the_tree(folder: Path) -> Path:
    """A configuration of mypy that is as strict with a scaffold as its own is, and with all else as the tree's, so that
    what mypy has read of torch for the tree is not read anew."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    overrides = settings.pop("overrides")
    del settings["packages"]
    settings["mypy_path"] = [str(folder / "src"), *(str(ROOT / part) for part in (".", "plugins", "tasks", "recipes"))]
    (strict,) = (own for own in overrides if "disallow_any_generics" in own)
    strict["module"].append("bridgeflow_tint.*")
    made = folder / "mypy-as-the-tree.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    for own in overrides:
        lines += ["[[tool.mypy.overrides]]", *(f"{key} = {json.dumps(value)}" for key, value in own.items())]
    made.write_text("\n".join(["[tool.mypy]", *lines]), encoding="utf-8")
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_linters_find_nothing(tmp_path: Path, kind: Kind) -> None:
    folder = scaffold("tint", kind, tmp_path).folder
    for line in (
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["mypy", "--cache-dir", str(ROOT / ".mypy_cache"), "--config-file", str(strict_as_the_tree(folder)), "src"],
    ):
        done = subprocess.run([sys.executable, "-m", *line], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
