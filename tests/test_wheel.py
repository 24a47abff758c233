"""The wheel holds what the tree holds, and works from anywhere."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = [ROOT / package for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree without a network."""
    folder = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was installed to, apart from the tree."""
    folder = tmp_path_factory.mktemp("elsewhere") / "site"
    line = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run(
        [*line, "--target", str(folder), str(wheel)], capture_output=True, text=True, cwd=folder.parent, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_four_packages_are_declared() -> None:
    assert [package.name for package in PACKAGES] == [
        "bridgeflow",
        "bridgeflow_plugins",
        "bridgeflow_tasks",
        "bridgeflow_recipes",
    ]
    for package in PACKAGES:
        assert (package / "py.typed").is_file()


def test_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    tree = {
        (package.name / file.relative_to(package)).as_posix(): file.read_bytes()
        for package in PACKAGES
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    code, models = {".py", ".yaml", ".typed", ".template"}, {".safetensors", ".json", ".md"}
    assert {Path(name).suffix for name in tree} == code | models
    held = contents(wheel)
    information = {
        name for name in held if name.startswith(f"bridgeflow_torch-{PROJECT['project']['version']}.dist-info/")
    }
    assert held.keys() - information == tree.keys()
    assert {name: held[name] for name in tree} == tree
    assert {Path(name).name for name in information} == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}


def test_metadata_name_this_distribution_alone(wheel: Path) -> None:
    (text,) = (data.decode() for name, data in contents(wheel).items() if name.endswith("/METADATA"))
    lines = text.partition("\n\n")[0].splitlines()
    assert "Name: bridgeflow-torch" in lines
    own = {line.partition(";")[0] for line in lines if line.startswith("Requires-Dist: bridgeflow")}
    assert all(line.startswith("Requires-Dist: bridgeflow-torch[") for line in own)


def test_every_package_folder_with_code_can_be_imported_from() -> None:
    for package in PACKAGES:
        for file in package.rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file


def test_entry_points_are_those_of_the_project(wheel: Path) -> None:
    (text,) = (data for name, data in contents(wheel).items() if name.endswith("/entry_points.txt"))
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text.decode())
    found = {section: dict(parser[section]) for section in parser.sections()}
    project = PROJECT["project"]
    assert found == {"console_scripts": project["scripts"], **project["entry-points"]}


def bridgeflow(arguments: list[str], folder: Path, path: Path | None) -> str:
    """stdout of a command run in a folder, with `path` first on the module path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    line = [sys.executable, "-m", "bridgeflow", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_installed_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = (
        "import bridgeflow, bridgeflow_recipes, bridgeflow_tasks, bridgeflow_plugins\n"
        "from bridgeflow import registry\n"
        "packages = (bridgeflow, bridgeflow_recipes, bridgeflow_tasks, bridgeflow_plugins)\n"
        "print(*(package.__path__[0] for package in packages))\n"
        "print(*{str(file) for _, file, _ in registry.recipe_files()})"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    places = done.stdout.split()
    assert len(places) > 8
    assert all(place.startswith(str(installed)) for place in places)


@pytest.mark.parametrize(
    "arguments",
    [["plugins", "list", "--json"], ["recipes", "list", "--json"], ["tasks", "list", "--json"], ["--help"]],
    ids=" ".join,
)
def test_installed_wheel_answers_as_the_tree_does(installed: Path, tmp_path: Path, arguments: list[str]) -> None:
    assert bridgeflow(arguments, tmp_path, installed) == bridgeflow(arguments, ROOT, None)


def test_installed_wheel_shows_the_same_recipes(installed: Path, tmp_path: Path) -> None:
    shown = ["recipes", "show", "depth/folder"]
    assert bridgeflow(shown, tmp_path, installed) == bridgeflow(shown, ROOT, None)
