"""`bridgeflow plugins check` on installed plugins that are broken, each in its own way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridgeflow import registry
from bridgeflow.cli.main import invoke

Install = Callable[..., Path]
HEAD = "import numpy as np, torch\nfrom testing_fine import *\n"


@dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls `bridgeflow plugins check` in this process."""

    def run(*arguments: str) -> Done:
        code = invoke(["plugins", "check", *arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def install_modality(install: Install, source: str) -> None:
    install("acme", {"bridgeflow.modalities": {"acme": "acme_mod:Acme"}}, {"acme_mod.py": HEAD + source}, "2.1")


BROKEN = {
    "raises on import": ("raise ValueError('no licence')", "contract", "cannot be loaded (ValueError: no licence)"),
    "lacks a dependency": ("import nonesuch_lib", "contract", "install what has the module 'nonesuch_lib'"),
    "names nothing": ("Other = Fine", "contract", "its entry point names 'acme_mod:Acme'"),
    "is no modality": ("class Acme:\n    api_version = 1", "contract", "odality"),
    "follows another contract": ("class Acme(Fine):\n    api_version = 7", "contract", "version 7 of the contract"),
    "waives what is no check": (
        "class Acme(Fine):\n    waived = {'files and folders': 'x'}",
        "waivers",
        "'files and folders', which is no check: take it out",
    ),
    "has an option without a default": (
        "class Options(FineOptions):\n    path: str\n\nclass Acme(Fine):\n    Options = Options",
        "options",
        "the option 'path' has no default: give it one",
    ),
    "declares another shape": (
        "class Acme(Fine):\n    latent = LatentSpec((4, 4), 'sequence')",
        "declared latent",
        "`encode` gave (B, 8, 2), but `latent` declares sequence 4x4: make `latent` say what `encode` makes.",
    ),
    "sees the neighbours": (
        "class Acme(Fine):\n    def encode(self, batch):\n        latent = super().encode(batch)\n"
        "        return Latent(latent.mean - latent.mean.mean(0), mask=latent.mask)",
        "rows of a batch",
        "treat each item by itself",
    ),
    "knows no edges": (
        "class Acme(Fine):\n    extremes = Modality.extremes",
        "edges",
        "names no edges: write its method `extremes`",
    ),
    "takes any rank": (
        "class Acme(Fine):\n    def decode(self, latent):\n        return super().decode(latent.reshape(-1, 8, 2))",
        "wrong rank",
        "without a word: raise BridgeflowError that names (B, 8, 2).",
    ),
    "loses what it writes": (
        "class Acme(Fine):\n    def write(self, item, path):\n        return super().write(item * 0.5, path)",
        "files",
        "fix `write` or `read`, or write a format that loses less.",
    ),
    "keeps a lambda": (
        "class Acme(Fine):\n    def __init__(self, options):\n        super().__init__(options)\n"
        "        self.f = lambda x: x",
        "pickle",
        "keep no lambda, open file or lock in it",
    ),
    "trains along": (
        "class Acme(Fine):\n    def __init__(self, options):\n        super().__init__(options)\n"
        "        self.signs.requires_grad_(True)",
        "frozen",
        "freeze the modality with self.requires_grad_(False)",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_plugin_is_named_with_fault_and_mend_in_one_sentence(call: Call, install: Install, how: str) -> None:
    source, check, words = BROKEN[how]
    install_modality(install, source)
    done = call("acme", "--json")
    assert (done.code, done.err) == (1, "")
    (facts,) = json.loads(done.out)
    assert (facts["kind"], facts["name"], facts["distribution"]) == ("modality", "acme", "acme 2.1")
    failed = [entry for entry in facts["checks"] if entry["status"] == "failed"]
    first = failed[0]
    assert first["check"] == check, failed
    assert words in first["message"]
    assert first["message"].endswith(".")
    assert "\n" not in first["message"]
    assert "Traceback" not in done.out


ON_IMPORT = {
    "prints": ("print('welcome')", "importing the modality 'acme' of acme 2.1 prints 'welcome' on stdout, where"),
    "writes": (
        "import os\nos.write(1, b'below')",
        "importing the modality 'acme' of acme 2.1 prints 'below' on stdout",
    ),
    "moves": (
        "import os\nos.chdir('/')",
        "importing the modality 'acme' of acme 2.1 changed the working folder, which",
    ),
    "takes long": (
        # A clock that leaps once, in place of waiting.
        "import time\n\ndef leap(own=time.perf_counter):\n    time.perf_counter = own\n    return own() + 5\n\n"
        "time.perf_counter = leap",
        "importing the modality 'acme' of acme 2.1 took 5.",
    ),
}


@pytest.mark.parametrize("how", ON_IMPORT)
def test_what_importing_a_plugin_does_besides_fails_its_check_alone(call: Call, install: Install, how: str) -> None:
    source, words = ON_IMPORT[how]
    install_modality(install, f"{source}\nAcme = Fine")
    done = call("acme", "--json")
    (facts,) = json.loads(done.out)
    failed = {entry["check"]: entry["message"] for entry in facts["checks"] if entry["status"] == "failed"}
    assert list(failed) == ["import"], failed
    assert words in failed["import"]
    assert failed["import"].endswith(".")


def test_people_read_one_line_a_check_and_the_sentence_below(call: Call, install: Install) -> None:
    install_modality(install, BROKEN["keeps a lambda"][0])
    done = call("acme")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == "modality acme of acme 2.1"
    assert "  passed  listing" in lines
    place = lines.index("  failed  pickle")
    assert lines[place + 1].startswith("          the modality cannot be pickled (")
    assert lines[-1] == "29 checks: 28 passed, 1 failed"
    assert "Traceback" not in done.out
    assert "Traceback" in call("acme", "--traceback").out
    (facts,) = json.loads(call("acme", "--traceback", "--json").out)
    assert [entry["check"] for entry in facts["checks"] if "traceback" in entry] == ["pickle"]


def test_what_a_plugin_prints_stays_out_of_the_json(call: Call, install: Install) -> None:
    source = (
        "class Acme(Fine):\n    def example(self, rng):\n        print('drawing')\n        return super().example(rng)"
    )
    install_modality(install, source)
    done = call("acme", "--json")
    assert done.code == 1
    (facts,) = json.loads(done.out)
    assert [entry["check"] for entry in facts["checks"] if entry["status"] == "failed"] == ["stdout"]
    assert "drawing" in done.err


def test_what_is_not_reached_says_so_and_is_not_tried(call: Call, install: Install) -> None:
    install_modality(install, "class Acme(Fine):\n    example = Modality.example")
    (facts,) = json.loads(call("acme", "--json").out)
    later = [entry for entry in facts["checks"] if entry["check"] == "masks"]
    assert later[0]["message"] == "not reached, since the check 'examples' fails: fix that first."


def test_a_fine_plugin_passes_with_exit_0_and_shows_its_waiver(call: Call, install: Install) -> None:
    install_modality(install, "class Acme(Fine):\n    waived = {'files': 'there are none yet'}")
    done = call("acme")
    assert done.code == 0
    assert "  waived  files\n          there are none yet\n" in done.out
    assert done.out.splitlines()[-1] == "29 checks: 28 passed, 1 waived"
    assert "sequence 6x2" in call("acme", "size=6").out


@pytest.mark.parametrize(
    ("text", "what"),
    [("import sys, types; sys.modules['torch'] = types.ModuleType('torch')", "torch"), ("import acme_mod", "acme_mod")],
    ids=["torch", "the plugin"],
)
def test_a_distribution_that_imports_at_start_fails_the_check_of_listing(
    call: Call, install: Install, text: str, what: str
) -> None:
    files = {"acme_mod.py": "from testing_fine import Fine as Acme\n", "sitecustomize.py": text}
    if what == "acme_mod":
        # What a .pth file would import is light here, so that the test is quick.
        files["acme_mod.py"] = "def __getattr__(name):\n    from testing_fine import Fine\n    return Fine\n"
    install("acme", {"bridgeflow.modalities": {"acme": "acme_mod:Acme"}}, files)
    (facts,) = json.loads(call("acme", "--json").out)
    failed = {entry["check"]: entry["message"] for entry in facts["checks"] if entry["status"] == "failed"}
    assert list(failed) == ["listing"], failed
    assert f"listing the plugins imports '{what}'" in failed["listing"]
    assert "sitecustomize.py" in failed["listing"]


def test_an_entry_point_that_a_fresh_process_does_not_see_is_named(
    call: Call, install: Install, tmp_path: Path
) -> None:
    install_modality(install, "Acme = Fine")
    registry.installed()
    (tmp_path / "site-acme-2.1" / "acme-2.1.dist-info" / "entry_points.txt").unlink()
    (facts,) = json.loads(call("acme", "--json").out)
    failed = {entry["check"]: entry["message"] for entry in facts["checks"] if entry["status"] == "failed"}
    assert list(failed) == ["listing"]
    assert "install acme again (pip install -e .)" in failed["listing"]


def test_one_name_for_a_modality_and_a_task_checks_both(call: Call, install: Install) -> None:
    points = {"bridgeflow.modalities": {"acme": "acme_mod:Acme"}, "bridgeflow.tasks": {"acme": "acme_mod:AcmeTask"}}
    install("acme", points, {"acme_mod.py": HEAD + "Acme = Fine\nclass AcmeTask(FineTask):\n    default_recipe = ''"})
    done = call("acme")
    assert "modality acme of acme 1.0" in done.out
    assert "task acme of acme 1.0" in done.out
    assert done.code == 1
    (facts,) = json.loads(call("acme", "--kind", "task", "--json").out)
    failed = {entry["check"]: entry["message"] for entry in facts["checks"] if entry["status"] == "failed"}
    assert list(failed) == ["default recipe"]
    assert "`default_recipe` is not set" in failed["default recipe"]
    assert call("acme", "--kind", "modality").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dept"], "no modality, task or tracker 'dept'. Did you mean 'depth'?"),
        (["captions", "--kind", "task"], "no task 'captions'. Did you mean 'caption'?"),
        (
            ["blocks"],
            "'blocks' is a dataset, which has no checks: name a modality, a task, a tracker or a part of the method.",
        ),
        (["caption", "steps=3"], "'caption' is a task, which is checked with its default recipe: leave 'steps=3' out."),
        (["depth", "sise=3", "--kind", "modality"], "sise: unknown key. Did you mean 'size'?"),
        (["depth", "--kind", "network"], "'network'"),
    ],
    ids=["name", "name of a kind", "dataset", "options of a task", "option", "kind"],
)
def test_wrong_usage_is_one_sentence_and_exit_2(call: Call, arguments: list[str], words: str) -> None:
    done = call(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert words in done.err
    assert "Traceback" not in done.err
