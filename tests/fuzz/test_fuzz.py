"""A few hundred hostile inputs, the same ones every time; `make fuzz` draws thousands, new ones each time."""

from __future__ import annotations

import fuzzing
from hypothesis import HealthCheck, given, settings

few = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
)


@settings(few, max_examples=120)
@given(fuzzing.recipes)
def test_recipes(text: str) -> None:
    fuzzing.read_recipe(text)


@settings(few, max_examples=80)
@given(fuzzing.overrides)
def test_overrides(text: str) -> None:
    fuzzing.read_override(text)


@settings(few, max_examples=120)
@given(fuzzing.metadata)
def test_metadata(drawn: tuple[str, bytes]) -> None:
    fuzzing.read_metadata(*drawn)


@settings(few, max_examples=150)
@given(fuzzing.pictures)
def test_pictures(data: bytes) -> None:
    fuzzing.read_picture(data)
