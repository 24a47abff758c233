"""Which tests `pytest -n N --dist loadfile` gives to one worker, and in which order.

xdist orders files by how many tests they have, which puts those with few but long tests last, where one worker then
runs them and the others wait. Here the longest come first, so that workers end together; files that share what a
fixture of the whole session trains stay together, so that it is trained once; and tests that take minutes and share
nothing may part. A run without workers keeps the order of pytest.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import pytest

APART = ("tests/examples/test_examples_tutorials.py", "tests/examples/test_examples_scaffold.py")
"""Files of which each test is given out by itself: they share no fixture."""
TOGETHER = (
    "tests/docs/test_docs_[bm]*.py",
    "tests/inference/*.py",
    "tests/plugins/text/test_text_caption*.py",
)
"""Files that go to one worker: they share the runs of a reader, a run of each task, and the program of METEOR."""
LONGEST = (
    "tests/examples/test_examples_tutorials.py*",
    "tests/docs/test_docs_[bm]*.py",
    "tests/examples/*",
    "tests/training/test_training_processes.py",
    "tests/inference/*.py",
    "tests/testing/test_testing_builtins.py",
    "tests/plugins/image_latent/test_image_latent_perceptual.py",
    "tests/test_isolation.py",
    "tests/test_scaffold.py",
    "tests/test_paper_recipes.py",
    "tests/plugins/text/test_text_caption*.py",
    "tests/test_bridge_learning.py",
    "tests/training/*.py",
    "tests/plugins/crossflow/*.py",
)
"""What takes more than half a minute, the longest first; the rest follows as pytest has it."""


def part_of(nodeid: str) -> str:
    """What is given to a worker as one, of which a test is a part."""
    file = nodeid.partition("::")[0]
    if file in APART:
        return nodeid
    return next((pattern for pattern in TOGETHER if fnmatch(file, pattern)), file)


def rank_of(nodeid: str) -> int:
    """The place in LONGEST of what a test is a part of."""
    part = part_of(nodeid)
    # What is kept together is named by the pattern itself.
    found = (at for at, pattern in enumerate(LONGEST) if part == pattern or fnmatch(part, pattern))
    return next(found, len(LONGEST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each worker has the same order, which the scheduler goes by."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler of `--dist loadfile`; any other is xdist's own."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LongestFirst(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return part_of(nodeid)

    config.option.loadscopereorder = False
    return LongestFirst(config, log)
