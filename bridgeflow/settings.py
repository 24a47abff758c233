"""The base of everything that can be set: frozen, and closed to unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A component's settings, apart from the object they build.

    Settings are values: they compare, hash by content, travel through JSON and YAML, and hold no tensor.
    A component turns them into an object with `settings.build(...)` or takes them in its constructor.
    The docstring under each field is its help text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
