"""Plugins: found without importing them, loaded on first use, each one's failure its own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bridgeflow import registry
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.registry import PluginError, installation, probe

Install = Callable[..., Path]
TASKS = "bridgeflow.tasks"
GOOD = "from bridgeflow.task import Task\nclass Good(Task):\n    api_version = 1\n"


def names(kind: str) -> set[str]:
    return {plugin.name for plugin in registry.installed(kind)}


def test_listing_imports_nothing_and_loading_imports_once(install: Install) -> None:
    install("acme", {TASKS: {"good": "acme_counted:Good"}}, {"acme_counted.py": GOOD + "MADE = object()\n"})
    plugin = registry.find("task", "good")
    assert (plugin.distribution, plugin.version, plugin.value) == ("acme", "1.0", "acme_counted:Good")
    assert "acme_counted" not in sys.modules
    loaded = registry.load("task", "good")
    assert loaded.__name__ == "Good"
    assert registry.load("task", "good") is loaded
    assert "acme_counted" in sys.modules


def test_own_plugins_come_from_entry_points() -> None:
    registry.forget()
    own = {(p.kind, p.name) for p in registry.installed() if p.distribution == "bridgeflow-torch"}
    assert {("task", "depth"), ("modality", "text"), ("dataset", "folder"), ("network", "dit")} <= own
    assert [p.kind for p in registry.installed()] == sorted(p.kind for p in registry.installed())


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"^no task 'dept'\. Did you mean 'depth'\? Installed: caption, depth"
    ) as caught:
        registry.load("task", "dept")
    assert caught.value.exit_code == 2


def test_unlike_name_suggests_nothing() -> None:
    with pytest.raises(UsageError, match=r"^no network 'zzz'\. Installed: dimr, dit, reading_dit, unet\.$"):
        registry.load("network", "zzz")


FAILURES = {
    "raises on import": ("raise ValueError('no licence\\nsecond line')", r"\(ValueError: no licence\)"),
    "exits on import": ("import sys\nsys.exit(3)", r"\(SystemExit: 3\)"),
    "has a syntax error": ("def (", r"\(SyntaxError: .*\)"),
    "names nothing": ("x = 1", r"\(AttributeError: .*'Good'.*\)"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_broken_plugin_is_one_sentence_and_breaks_only_itself(install: Install, kind: str) -> None:
    source, cause = FAILURES[kind]
    install("acme-broken", {TASKS: {"bad": "acme_bad:Good"}}, {"acme_bad.py": source}, version="2.3")
    install("acme-fine", {TASKS: {"good": "acme_good:Good"}}, {"acme_good.py": GOOD})
    with pytest.raises(BridgeflowError) as caught:
        registry.load("task", "bad")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith("the task 'bad' of acme-broken 2.3 cannot be loaded (")
    assert sentence.endswith(".")
    assert "pip install --force-reinstall --no-deps acme-broken" in sentence
    assert re.search(cause, sentence)
    assert registry.load("task", "good").__name__ == "Good"
    assert {"bad", "good", "depth"} <= names("task")


def test_missing_dependency_is_named_with_its_command(install: Install) -> None:
    install("acme", {TASKS: {"bad": "acme_dep:Good"}}, {"acme_dep.py": "import nonesuch_lib.inner\n"})
    with pytest.raises(BridgeflowError, match=r"nonesuch_lib.*: install what has the module 'nonesuch_lib' "):
        registry.load("task", "bad")


def test_missing_own_module_asks_for_the_distribution_not_the_module(install: Install) -> None:
    install("acme", {TASKS: {"bad": "acme_gone.inner:Good"}})
    with pytest.raises(BridgeflowError, match=r"inner:Good', so pip install --force-reinstall --no-deps acme\.$"):
        registry.load("task", "bad")


def test_keyboard_interrupt_passes_through(install: Install) -> None:
    install("acme", {TASKS: {"bad": "acme_stop:Good"}}, {"acme_stop.py": "raise KeyboardInterrupt\n"})
    with pytest.raises(KeyboardInterrupt):
        registry.load("task", "bad")


def test_other_version_of_the_contract_is_refused(install: Install) -> None:
    install("acme", {TASKS: {"new": "acme_new:New"}}, {"acme_new.py": "class New:\n    api_version = 7\n"})
    with pytest.raises(
        BridgeflowError, match=r"acme 1\.0 is written for version 7 .* speaks version 1: use a bridgeflow that speaks 7"
    ):
        registry.load("task", "new")


def test_one_name_from_two_distributions_is_refused_and_can_be_chosen(install: Install) -> None:
    for name in ("acme-one", "acme-two"):
        module = name.replace("-", "_")
        install(name, {TASKS: {"same": f"{module}:Good"}}, {f"{module}.py": GOOD}, version="1." + name[-1])
    with pytest.raises(UsageError, match=r"offered by acme-one 1\.e and acme-two 1\.o: say which, as 'acme-one:same'"):
        registry.load("task", "same")
    assert registry.load("task", "acme-two:same").__module__ == "acme_two"
    assert registry.load("task", "Acme_One:same").__module__ == "acme_one"
    with pytest.raises(UsageError, match="no task 'acme-three:same'"):
        registry.load("task", "acme-three:same")


def test_of_a_distribution_installed_twice_the_first_on_the_path_counts(install: Install) -> None:
    install("acme", {TASKS: {"old": "acme_v:Good"}}, {"acme_v.py": GOOD}, version="1.0")
    install("Acme", {TASKS: {"new": "acme_v:Good"}}, {"acme_v.py": GOOD}, version="2.0")
    assert "new" in names("task")
    assert "old" not in names("task")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("none", set()),
        ("", set()),
        ("acme-a", {"in-a"}),
        ("acme-a, ACME_B", {"in-a", "in-b"}),
        ("acme-c", {"in-c"}),
    ],
)
def test_environment_limits_foreign_distributions(
    install: Install, monkeypatch: pytest.MonkeyPatch, limit: str, expected: set[str]
) -> None:
    for letter in "abc":
        install(f"acme-{letter}", {TASKS: {f"in-{letter}": f"acme_{letter}:Good"}})
    monkeypatch.setenv("BRIDGEFLOW_PLUGINS", limit)
    registry.forget()
    found = names("task")
    assert {name for name in found if name.startswith("in-")} == expected
    assert "depth" in found


def test_distribution_without_a_name_hides_no_other(install: Install) -> None:
    folder = install("acme", {TASKS: {"odd": "acme_odd:Good"}}, {"acme_odd.py": GOOD})
    (folder / "acme-1.0.dist-info" / "METADATA").unlink()
    registry.forget()
    assert {"odd", "depth"} <= names("task")
    assert registry.load("task", "odd").__name__ == "Good"


def test_recipe_packages_are_found_without_importing_them(install: Install) -> None:
    files = {
        "acme_pack/__init__.py": "raise RuntimeError('must not be imported')",
        "acme_pack/inner/depth/mine.yaml": "# About mine.\ntask: depth\n",
    }
    install("acme", {"bridgeflow.recipes": {"acme": "acme_pack.inner", "gone": "acme_gone"}}, files)
    found = {name: plugin.distribution for name, _, plugin in registry.recipe_files()}
    assert found["depth/mine"] == "acme"
    assert found["depth/blocks"] == "bridgeflow-torch"
    assert "acme_pack" not in sys.modules


def test_plugin_that_is_no_subclass_of_its_contract_is_refused(install: Install) -> None:
    text = "class Other: ...\ndef maker(): ...\n"
    points = {"bridgeflow.modalities": {"odd": "acme_o:Other"}, "bridgeflow.networks": {"fun": "acme_o:maker"}}
    install("acme", points, {"acme_o.py": text})
    with pytest.raises(PluginError, match=r"is no modality: .* a class 'Other', where a subclass of .*\.Modality is"):
        registry.load("modality", "odd")
    with pytest.raises(
        PluginError, match=r"is no network: .* a function object, where .*\.NetworkSettings is"
    ) as caught:
        registry.load("network", "fun")
    assert caught.value.status == "broken"


def test_entry_points_that_cannot_be_read_are_told_of_and_hide_no_other(install: Install) -> None:
    folder = install("acme", {TASKS: {"odd": "acme_odd:Good"}}, version="3.1")
    install("umbrella", {TASKS: {"fine": "umbrella_fine:Good"}})
    (folder / "acme-3.1.dist-info" / "entry_points.txt").write_text(f"[{TASKS}]\nno equals sign\n")
    registry.forget()
    assert "odd" not in names("task")
    assert {"fine", "depth"} <= names("task")
    (sentence,) = registry.damaged()
    assert sentence.startswith("the metadata of acme 3.1 cannot be read (")
    assert sentence.endswith("so none of its plugins is to be had: pip install --force-reinstall --no-deps acme.")


def test_mend_of_an_editable_installation_names_its_folder(install: Install, tmp_path: Path) -> None:
    folder = install("acme", {TASKS: {"bad": "acme_gone:Good"}})
    noted = {"url": f"{(tmp_path / 'my source').as_uri()}", "dir_info": {"editable": True}}
    (folder / "acme-1.0.dist-info" / "direct_url.json").write_text(json.dumps(noted))
    with pytest.raises(BridgeflowError) as caught:
        registry.load("task", "bad")
    assert str(caught.value).endswith(f"so pip install -e '{tmp_path / 'my source'}'.")


@pytest.mark.parametrize("text", ["not [ toml", "[project]\n", 'project = "none"\n', None])
def test_source_without_readable_entry_points_declares_nothing(
    install: Install, tmp_path: Path, text: str | None
) -> None:
    folder = install("acme", {TASKS: {"own": "acme_own:Good"}})
    noted = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    (folder / "acme-1.0.dist-info" / "direct_url.json").write_text(json.dumps(noted))
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=r"^no task 'late'\. "):
        registry.find("task", "late")
    (tmp_path / "pyproject.toml").write_text(f'[project.entry-points."{TASKS}"]\nlate = "acme_own:Late"\n')
    with pytest.raises(
        UsageError, match=r"^no task 'late': .*pyproject\.toml declares it for acme, .*: pip install -e "
    ):
        registry.find("task", "late")
    with pytest.raises(UsageError, match=r"^no modality 'late'\. "):
        registry.find("modality", "late")


def test_plugin_that_takes_too_long_is_given_up_and_the_next_one_is_asked(install: Install) -> None:
    files = {"acme_slow.py": "import time\ntime.sleep(60)\n", "acme_quick.py": "raise ValueError('quick')\n"}
    install("acme", {TASKS: {"a": "acme_slow:Good", "b": "acme_quick:Good"}}, files)
    plugins = [registry.find("task", name) for name in "ab"]
    slow, quick = probe.loaded(plugins, seconds=1.5).values()
    assert slow.status == quick.status == "broken"
    assert "(importing it takes longer than 2 seconds): pip install --force-reinstall --no-deps acme" in slow.cause
    assert "(ValueError: quick)" in quick.cause


def test_metadata_that_is_no_utf_8_breaks_only_its_own_distribution(install: Install) -> None:
    folder = install("acme-odd", {TASKS: {"odd": "acme_odd:Good"}}, version="4.2")
    install("other", {TASKS: {"fine": "other_fine:Good"}}, {"other_fine.py": GOOD})
    head = b"Metadata-Version: 2.1\nName: acme-odd\nVersion: 4.2\n"
    (folder / "acme-odd-4.2.dist-info" / "METADATA").write_bytes(head + b"Author: Andr\xe9\n")
    registry.forget()
    assert "odd" not in names("task")
    assert registry.load("task", "fine").__name__ == "Good"
    (sentence,) = registry.damaged()
    # Named by its folder, where a name cannot hold a hyphen.
    assert sentence.startswith("the metadata of acme")
    assert "UnicodeDecodeError" in sentence
    assert registry.declared() == []
    with pytest.raises(UsageError, match=r"^no task 'odd'\. "):
        registry.find("task", "odd")


def noted(folder: Path, **facts: object) -> None:
    (folder / "acme-1.0.dist-info" / "direct_url.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("facts", "fix"),
    [
        ({}, "pip install --force-reinstall --no-deps acme,"),
        ({"url": "file:///w%20h/a-1.0.whl", "archive_info": {}}, "--no-deps '/w h/a-1.0.whl',"),
        (
            {"url": "https://x.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "ab"}, "subdirectory": "py"},
            '--no-deps "acme @ git+https://x.org/a.git@ab#subdirectory=py",',
        ),
        ({"url": "file://[/tmp", "dir_info": {"editable": True}}, "pip install --force-reinstall --no-deps "),
        ({"url": "file:///src", "dir_info": ["editable"]}, "--no-deps /src,"),
        ({"url": 3, "dir_info": 4, "vcs_info": 5, "subdirectory": 6}, "--no-deps acme,"),
    ],
)
def test_a_mend_reinstalls_nothing_but_the_plugin_from_where_it_came(
    install: Install, facts: dict[str, object], fix: str
) -> None:
    folder = install("acme", {TASKS: {"bad": "acme_bad:Good"}}, {"acme_bad.py": "raise ValueError"})
    noted(folder, **facts)
    with pytest.raises(PluginError) as caught:
        registry.load("task", "bad")
    assert fix in str(caught.value)
    with pytest.raises(UsageError, match=r"^no task 'late'\. "):
        registry.find("task", "late")


@pytest.mark.parametrize("source", ["class T:\n    api_version = 0\n", "from bridgeflow.modality import OfTomorrow\n"])
def test_no_mend_installs_a_bridgeflow_from_a_package_index(install: Install, source: str) -> None:
    install("acme", {TASKS: {"bad": "acme_bad:T"}}, {"acme_bad.py": source})
    with pytest.raises(PluginError) as caught:
        registry.load("task", "bad")
    assert str(caught.value).endswith("pip install --upgrade --no-deps acme.")


def test_our_own_distribution_is_not_looked_for_on_a_package_index(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("bridgeflow_torch", {TASKS: {"bad": "acme_bad:Good"}}, {"acme_bad.py": "raise ValueError"})
    assert installation.reinstall_command("bridgeflow-torch") == "install bridgeflow-torch again from where it came"


def test_a_misspelt_import_inside_the_plugins_own_package_is_no_dependency(install: Install) -> None:
    files = {"acme_pk/__init__.py": "", "acme_pk/mod.py": "from acme_pk.missspelt import foo\n"}
    folder = install("acme", {TASKS: {"bad": "acme_pk.mod:Good"}}, files)
    with pytest.raises(PluginError) as caught:
        registry.load("task", "bad")
    assert "pip install acme_pk" not in str(caught.value)
    assert "its entry point names" not in str(caught.value)
    noted(folder, url=folder.as_uri(), dir_info={"editable": True})
    with pytest.raises(PluginError) as caught:
        registry.load("task", "bad")
    assert f"fix {folder}/acme_pk/mod.py, line 1, or leave" in str(caught.value)


@pytest.mark.parametrize(
    ("required", "fix"),
    [
        (["click", "nonesuch-cv-python>=4; python_version>'3'"], "pip install nonesuch-cv-python."),
        (["click", "Nonesuch.Lib[fast]>2", "nonesuch-other"], "pip install Nonesuch.Lib."),
        (["click", 'nonesuch-dev; extra == "dev"'], "install what has the module 'nonesuch_lib' "),
    ],
)
def test_a_missing_dependency_is_told_by_the_name_that_the_distribution_requires(
    install: Install, required: list[str], fix: str
) -> None:
    folder = install("acme", {TASKS: {"bad": "acme_dep:Good"}}, {"acme_dep.py": "import nonesuch_lib\n"})
    with (folder / "acme-1.0.dist-info" / "METADATA").open("a") as metadata:
        metadata.writelines(f"Requires-Dist: {line}\n" for line in required)
    with pytest.raises(PluginError) as caught:
        registry.load("task", "bad")
    assert f"'nonesuch_lib'): {fix}" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "told"),
    [("\n\n  IMPORTANT: read\nmore", "ValueError: IMPORTANT: read"), ("", "ValueError"), (" \n ", "ValueError")],
)
def test_a_cause_is_the_first_line_that_says_something(message: str, told: str) -> None:
    assert registry.one_line(ValueError(message)) == told


def test_entry_points_of_an_odd_source_are_passed_over(install: Install, tmp_path: Path) -> None:
    folder = install("acme", {TASKS: {"own": "acme_own:Good"}})
    noted(folder, url=tmp_path.as_uri(), dir_info={"editable": True})
    text = f'[project.entry-points."{TASKS}"]\nzz = ["a:b"]\nlate = "acme_own:Late"\n'
    (tmp_path / "pyproject.toml").write_text(text)
    assert [plugin.name for plugin, _ in registry.declared()] == ["late"]


def test_a_link_that_leads_nowhere_and_a_folder_are_no_recipes(install: Install) -> None:
    folder = install(
        "acme", {"bridgeflow.recipes": {"acme": "acme_pack"}}, {"acme_pack/depth/mine.yaml": "task: depth"}
    )
    (folder / "acme_pack" / "depth" / "dangling.yaml").symlink_to("nowhere")
    (folder / "acme_pack" / "depth" / "folder.yaml").mkdir()
    found = [name for name, _, plugin in registry.recipe_files() if plugin.distribution == "acme"]
    assert found == ["depth/mine"]


def test_a_module_in_the_current_folder_does_not_harm_the_other_process(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acme", {TASKS: {"good": "acme_fine:Good"}}, {"acme_fine.py": GOOD})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')\n")
    (verdict,) = probe.loaded([registry.find("task", "good")]).values()
    assert verdict == probe.Verdict("ok")
