"""Broken plugins, each a real distribution in an environment of its own: none of them may break anything else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.warm import Warm

MODALITY = """
from pathlib import Path
import numpy as np
import torch
from bridgeflow.modality import Latent, LatentSpec, Modality

class Line(Modality):
    api_version = {version}
    @property
    def latent(self): return LatentSpec((1, 4), "sequence")
    def read(self, value): return value
    def collate(self, items): return {{"x": torch.zeros(len(items), 1, 4)}}
    def encode(self, batch): return Latent(batch["x"])
    def preview(self, item): raise NotImplementedError
"""
FINE = MODALITY.format(version=1)

PLUGINS: Mapping[str, tuple[str, str]] = {
    "fine": (FINE, "fine:Line"),
    "raises": ("raise ValueError('no licence\\nsecond line')", "raises:Line"),
    "lacking": ("import nonesuch_lib.inner", "lacking:Line"),
    "exits": ("import sys; print('bye'); sys.exit(3)", "exits:Line"),
    "vanishes": ("import os; os._exit(7)", "vanishes:Line"),
    "interrupts": ("raise KeyboardInterrupt", "interrupts:Line"),
    "future": (MODALITY.format(version=7), "future:Line"),
    "newer": ("from bridgeflow.modality import Modality, OfTomorrow", "newer:Line"),
    "moduleless": (FINE, "moduleless_gone:Line"),
    "nameless": (FINE, "nameless:Curve"),
    "stranger": ("class Line: ...", "stranger:Line"),
    "same_one": (FINE, "same_one:Line"),
    "same_two": (FINE, "same_two:Line"),
}
"""Module text and entry point of the modality of each distribution; 'fine' is the only one that is well."""

CAUSES = {
    "raises": "(ValueError: no licence): pip install --force-reinstall --no-deps ",
    "lacking": "(ModuleNotFoundError: No module named 'nonesuch_lib'): install what has the module 'nonesuch_lib'",
    "exits": "(SystemExit: 3): pip install --force-reinstall --no-deps ",
    "vanishes": "(importing it ended the process with code 7): pip install --force-reinstall --no-deps ",
    "interrupts": "(KeyboardInterrupt): ",
    "future": "but this bridgeflow speaks version 1: use a bridgeflow that speaks 7, or another version of",
    "newer": "made for another bridgeflow than this one, so use that, or pip install --upgrade --no-deps acme-newer.",
    "moduleless": "names 'acme_moduleless_gone:Line', so pip install --force-reinstall --no-deps ",
    "nameless": "names 'acme_nameless:Curve', so pip install --force-reinstall --no-deps ",
    "stranger": "is no modality: its entry point names 'acme_stranger:Line', a class 'Line', where a subclass of "
    "bridgeflow.modality.Modality is expected",
    "same": "is offered by acme-same-one 1.0 and acme-same-two 1.0: say which, as 'acme-same-one:same', or leave",
}


def declaration(own: str, points: Mapping[str, str]) -> str:
    """The pyproject.toml of a distribution with modalities."""
    lines = "\n".join(f'{name} = "{value}"' for name, value in points.items())
    return (
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{own}"\nversion = "1.0"\n[project.entry-points."bridgeflow.modalities"]\n{lines}\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["*.py"]\n'
    )


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Environment:
    """A virtual environment in which bridgeflow is the one under test, and what is installed besides is its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        self.python = folder / "env" / "bin" / "python"
        (site,) = (folder / "env" / "lib").glob("python*/site-packages")
        # As a site folder, so that the path files in it count: that is how an editable bridgeflow is found.
        outer = sysconfig.get_path("purelib")
        (site / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n", encoding="utf-8")
        variables = {key: value for key, value in os.environ.items() if key not in ("BRIDGEFLOW_PLUGINS", "PYTHONPATH")}
        self.variables = variables | {"BRIDGEFLOW_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self.warm = Warm(self.python, self.variables)

    def pip(self, *arguments: object) -> None:
        """Installs without an index and without isolation."""
        options = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        line = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.python), *options]
        done = subprocess.run([*line, *map(str, arguments)], capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *arguments: str, cold: bool = False) -> Outcome:
        """A command of bridgeflow, in a process of its own; with `cold` one that begins with nothing imported."""
        line = [*([str(self.python), "-m"] if cold else self.warm.line), "bridgeflow", *arguments]
        done = subprocess.run(line, capture_output=True, text=True, timeout=200, cwd=self.folder, env=self.variables)
        assert "Traceback" not in done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The thirteen distributions of PLUGINS, built and installed."""
    made = Environment(tmp_path_factory.mktemp("isolation"))
    folders = []
    for own, (text, value) in PLUGINS.items():
        folder = made.folder / "sources" / own
        folder.mkdir(parents=True)
        name = "same" if own.startswith("same") else own
        points = {name: f"acme_{value}"}
        (folder / "pyproject.toml").write_text(declaration(f"acme-{own.replace('_', '-')}", points), encoding="utf-8")
        (folder / f"acme_{own}.py").write_text(text, encoding="utf-8")
        folders.append(str(folder))
    code = (
        "import sys\nfrom hatchling.builders.wheel import WheelBuilder\n"
        "for folder in sys.argv[2:]:\n    list(WheelBuilder(folder).build(directory=sys.argv[1]))"
    )
    wheels = made.folder / "wheels"
    subprocess.run([sys.executable, "-c", code, str(wheels), *folders], check=True, capture_output=True)
    made.pip(*wheels.iterdir())
    yield made
    made.warm.close()


@pytest.fixture(scope="module")
def listed(environment: Environment) -> dict[str, dict[str, str]]:
    """What `plugins list` tells of the modalities, by name."""
    done = environment.run("plugins", "list", "--kind", "modality", "--json")
    assert done.code == 0
    return {row["name"]: row for row in json.loads(done.out)}


def test_plugins_list_tells_status_distribution_version_and_cause(listed: dict[str, dict[str, str]]) -> None:
    assert {name: row["status"] for name, row in listed.items() if row["status"] != "broken"} == {
        **dict.fromkeys(["depth", "image_latent", "lowres", "text", "fine"], "ok"),
        "future": "other contract",
        "same": "twice",
    }
    assert {name for name, row in listed.items() if row["status"] == "broken"} == set(CAUSES) - {"future", "same"}
    for name, cause in CAUSES.items():
        row = listed[name]
        assert row["distribution"].startswith(f"acme-{name}")
        assert row["version"] == "1.0"
        assert cause in row["cause"]
        assert "\n" not in row["cause"]
        assert row["cause"].startswith(f"the modality {name!r} ")
    assert listed["fine"]["cause"] == listed["text"]["cause"] == ""


def test_plugins_list_is_for_people_too_and_loads_nothing_where_told_so(environment: Environment) -> None:
    done = environment.run("plugins", "list", "--no-load", "--kind", "modality")
    table, *causes = done.out.split("\n\n")
    rows = [line.split()[1:4] for line in table.splitlines()[1:]]
    assert ["raises", "not", "loaded"] in rows
    assert ["text", "ok", "bridgeflow-torch"] in rows
    assert rows.count(["same", "twice", "acme-same-one"]) == rows.count(["same", "twice", "acme-same-two"]) == 1
    assert [CAUSES["same"] in cause for cause in causes] == [True]
    assert done.err == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [("--help", "Commands:"), ("tasks list", "depth/blocks"), ("recipes list --task superres", "superres/folder")],
)
def test_lists_and_help_keep_working(environment: Environment, line: str, told: str) -> None:
    done = environment.run(*line.split(), cold=True)
    assert (done.code, done.err) == (0, "")
    assert told in done.out


SMALL = "data.size=16 data.held_out=4 data.workers=1 network.channels=[8] network.blocks=1 network.attention=[] "
SMALL += "training.steps=1 training.batch_size=2 training.precision=fp32 training.evaluate=0 training.sample_every=0 "
SMALL += "training.samples=1"
TRAIN = "train --task superres --device cpu"


def test_every_other_command_keeps_working(environment: Environment) -> None:
    told = {
        "plugins info fine": "acme_fine:Line",
        "plugins info unet": "patch = 1",
        "recipes show depth/folder --resolved": "keep: 2",
        f"{TRAIN} --dry-run {SMALL}": "seconds per step",
        f"{TRAIN} --output run --json {SMALL}": '"steps": 1',
        "inspect run": "modality lowres (bridgeflow-torch ",
        "run --task superres run/samples/000001.png --checkpoint run -o out.png --steps 1": "out.png",
    }
    for line in told:
        done = environment.run(*line.split())
        assert done.code == 0, f"{line}: {done.err}"
        assert told[line] in done.out, line
    assert (environment.folder / "out.png").stat().st_size > 100


def test_doctor_names_them_all_and_fails(environment: Environment) -> None:
    done = environment.run("doctor", cold=True)
    assert done.code == 1
    for cause in CAUSES.values():
        assert done.out.count(cause) == 1
    assert "acme-fine" not in done.out


def test_checking_one_that_ends_the_process_is_told_of_and_fails(environment: Environment) -> None:
    done = environment.run("plugins", "check", "vanishes")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("bridgeflow: the modality 'vanishes' of acme-vanishes 1.0 cannot be loaded (importing ")
    assert CAUSES["vanishes"] in done.err


def test_asking_for_a_broken_one_tells_its_own_cause_and_no_other(environment: Environment) -> None:
    done = environment.run("plugins", "info", "raises")
    assert (done.code, done.out) == (1, "")
    assert CAUSES["raises"] in done.err
    assert "acme-exits" not in done.err


def test_entry_point_added_to_an_editable_installation_says_to_install_it_again(
    environment: Environment, tmp_path: Path
) -> None:
    folder = tmp_path / "of mine"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(declaration("acme-editable", {"early": "acme_editable:Line"}))
    (folder / "acme_editable.py").write_text(FINE)
    environment.pip("-e", folder)
    before = environment.run("plugins", "info", "late", "--kind", "modality")
    assert before.code == 2
    assert before.err.startswith("bridgeflow: no modality 'late'. ")
    assert "Installed: depth, early, exits" in before.err
    points = {"early": "acme_editable:Line", "late": "acme_editable:Line"}
    (folder / "pyproject.toml").write_text(declaration("acme-editable", points))
    after = environment.run("plugins", "info", "late", "--kind", "modality")
    assert after.code == 2
    assert after.err == (
        f"bridgeflow: no modality 'late': {folder}/pyproject.toml declares it for acme-editable, but was changed "
        f"after that was installed: pip install -e '{folder}'.\n"
    )

    def statuses() -> dict[str, str]:
        rows = json.loads(environment.run("plugins", "list", "--no-load", "--json").out)
        return {row["name"]: row["status"] for row in rows if row["distribution"] == "acme-editable"}

    assert statuses() == {"early": "not loaded", "late": "not installed yet"}
    environment.pip("-e", folder)
    assert statuses() == {"early": "not loaded", "late": "not loaded"}

    (folder / "acme_editable.py").write_text(FINE.replace("class Line", "class Renamed"))
    renamed = environment.run("plugins", "info", "late", "--kind", "modality")
    assert renamed.err.endswith(
        f"{folder}/pyproject.toml names 'acme_editable:Line', so change that line or the class, then pip install -e "
        f"'{folder}'.\n"
    )
    for text, line in (("x = 1\nclass\n", 2), ("import json\n\njson.loads(1)\n", 3)):
        (folder / "acme_editable.py").write_text(text)
        told = environment.run("plugins", "info", "late", "--kind", "modality").err
        assert f"fix {folder}/acme_editable.py, line {line}, or leave it out with BRIDGEFLOW_PLUGINS." in told
