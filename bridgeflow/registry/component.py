"""Fields of settings whose class is a plugin, chosen by its `name`: the doors of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from bridgeflow.errors import UsageError
from bridgeflow.registry.loading import load
from bridgeflow.settings import Settings


class Component:
    """Metadata of a field that holds settings of the plugin that `name` says.

        path: Annotated[SerializeAsAny[PathSettings], Component("path", "straight")] = StraightPathSettings()

    The field's type is the base class of the kind, and its values are instances of whichever plugin is named. Mistakes
    in the keys of that plugin are reported at their own place. `SerializeAsAny` writes all of its keys.
    """

    def __init__(self, kind: str, default: str) -> None:
        """kind: as in `registry.GROUPS`. default: the name that is meant where none is given."""
        self.kind = kind
        self.default = default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.chosen, handler(source))

    def settings(self, values: Any) -> type[Settings]:
        """The settings class that a mapping of keys names, or the default's. Raises as `registry.load`."""
        name = values.get("name") if isinstance(values, Mapping) else None
        settings: type[Settings] = load(self.kind, name if isinstance(name, str) else self.default)
        return settings

    def chosen(self, value: Any) -> Any:
        """The settings that a mapping of keys describes; anything else is left to pydantic."""
        if not isinstance(value, Mapping) or not isinstance(value.get("name", ""), str):
            return value
        try:
            settings = self.settings(value)
        except UsageError as error:
            # As pydantic's own, so that it is reported with the key that it stands under.
            raise ValueError(str(error)) from error
        return settings.model_validate({**value, "name": settings.model_fields["name"].default})
