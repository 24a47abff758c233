"""How tests are given to workers: every name still means a file, and the longest come first."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from tests.schedule import APART, LONGEST, TOGETHER, part_of, rank_of

ROOT = Path(__file__).parents[1]
FILES = [file.relative_to(ROOT).as_posix() for file in sorted((ROOT / "tests").rglob("test_*.py"))]


def test_every_name_is_that_of_files_that_are_there() -> None:
    assert set(APART) <= set(FILES)
    for pattern in LONGEST:
        assert any(fnmatch(file, pattern) for file in FILES), pattern
    for pattern in TOGETHER:
        assert sum(fnmatch(file, pattern) for file in FILES) > 1, pattern


def test_what_shares_a_fixture_stays_together_and_what_shares_none_parts() -> None:
    parts = {part_of(f"{file}::test_a") for file in FILES if file.startswith("tests/inference/")}
    assert len(parts) == 1
    blocks, messages = (f"tests/docs/test_docs_{name}.py::test_message" for name in ("blocks", "messages"))
    assert part_of(blocks) == part_of(messages) != part_of("tests/docs/test_docs_site.py::test_a")
    assert part_of(f"{APART[0]}::test_a") != part_of(f"{APART[0]}::test_b")
    assert part_of("tests/test_bridge.py::test_a[b::c]") == part_of("tests/test_bridge.py::test_b")


def test_all_of_a_part_has_one_rank_and_the_long_come_first() -> None:
    ranks: dict[str, set[int]] = {}
    for file in FILES:
        ranks.setdefault(part_of(f"{file}::test_a"), set()).add(rank_of(f"{file}::test_a"))
    assert {len(own) for own in ranks.values()} == {1}
    assert rank_of(f"{APART[0]}::test_a") == 0
    assert rank_of("tests/inference/test_inference_cli.py::test_a") < rank_of("tests/test_layers.py::test_a")
