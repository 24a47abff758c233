"""The site builds without a warning, and its reference is that of the commands and docstrings."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

import pytest
from docs_reader import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; the build raises at a warning, such as a link that leads nowhere."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    finally:
        os.chdir(before)
    return folder


def text_of(page: Path) -> str:
    """What a page shows, without its tags."""
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", shown))


def test_every_page_is_there_and_no_example_or_program_is(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {"concepts", "your-data", "cli", "api", "troubleshooting", "write-a-modality", "crossflow"} <= pages
    built = {page.parent.name for page in site.glob("*/index.html")}
    assert built >= pages
    assert not list(site.rglob("examples/*"))
    assert not list(site.rglob("*.py"))


def test_the_command_line_is_that_of_the_commands(site: Path) -> None:
    shown = text_of(site / "cli" / "index.html")
    for title in ("bridgeflow train", "bridgeflow plugins new", "bridgeflow data check", "bridgeflow import crossflow"):
        assert re.search(rf"^{title}", shown, re.MULTILINE), title
    for piece in (
        "--dry-run",
        "--traceback",
        "--keep-tower",
        "-h, --help",
        "[default: 256; x>=1]",
        "bridgeflow eval --task depth",
    ):
        assert piece in shown, piece
    assert "UNSET" not in shown


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("api", ["load(", "train(", "__call__(", "modalities", "BridgeflowError", "interrupted"]),
        ("api-plugins", ["LatentSpec", "collate(", "pair(", "DataSettings", "Importer", "check_modality("]),
        ("api-engine", ["TimeSchedule", "solver_grid(", "IndicatorGuidance", "VelocityNet", "kl_loss("]),
    ],
)
def test_python_is_that_of_the_docstrings(site: Path, page: str, names: list[str]) -> None:
    shown = text_of(site / page / "index.html")
    assert [name for name in names if name not in shown] == []


def test_parameters_are_a_list_and_shapes_keep_their_asterisk(site: Path) -> None:
    assert "<li><strong>precision</strong>: " in (site / "api" / "index.html").read_text(encoding="utf-8")
    assert "(B, *shape)" in text_of(site / "api-engine" / "index.html")
    assert "<em>items</em>" in (site / "api-plugins" / "index.html").read_text(encoding="utf-8")


def test_quoted_messages_are_shown_whole(site: Path) -> None:
    quoted = re.findall(r"^> (.*)$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    shown = text_of(site / "troubleshooting" / "index.html")
    assert [message for message in quoted if message not in shown] == []


def test_pictures_are_small_and_shown() -> None:
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    shown = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    assert len(pictures) >= 3
    for picture in pictures:
        assert picture.stat().st_size < 150_000
        assert f"pictures/{picture.name}" in shown
