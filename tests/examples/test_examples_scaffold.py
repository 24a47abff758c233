"""What `bridgeflow plugins new` makes is installed, checked, trained and run as its author would."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "task", "checked"),
    [("modality", "tint_to_image", ["tint", "tint_to_image"]), ("task", "tint", ["tint"])],
)
def test_scaffold_works_as_it_is(workshop: Any, kind: str, task: str, checked: list[str]) -> None:
    made = workshop.run(f"bridgeflow plugins new tint --kind {kind}")
    # What it says to do next is what is done here.
    *_, enter, install, check, train = made.splitlines()
    assert [line.split()[0] for line in (enter, install, check, train)] == ["cd", "pip", "bridgeflow", "bridgeflow"]
    workshop.run(f"{enter}\n{install}")
    listed = json.loads(workshop.run("bridgeflow plugins list --json 2>/dev/null"))
    own = [(plugin["name"], plugin["status"]) for plugin in listed if plugin["distribution"] == "bridgeflow-tint"]
    assert sorted(own) == [(name, "ok") for name in sorted(["bridgeflow-tint", *checked])]
    for name in checked:
        workshop.run(f"bridgeflow plugins check {name}")
    assert " passed" in workshop.run("python -m pytest -q -p no:cacheprovider")
    said = workshop.run(f"{train} training.steps=2 training.evaluate=4 training.samples=2")
    assert f"next: bridgeflow run --task {task} FILE" in said
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(workshop.folder / "given.png")
    workshop.run(f"bridgeflow run --task {task} given.png -o result.png")
    assert np.asarray(Image.open(workshop.folder / "result.png")).shape == (32, 32, 3)
