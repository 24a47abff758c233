"""A plugin's description and options, for `plugins info`."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from bridgeflow import registry
from bridgeflow.registry import Plugin


def describe_plugin(plugin: Plugin) -> dict[str, Any]:
    """Facts of a plugin as JSON values. Loads it; raises BridgeflowError where that fails."""
    facts: dict[str, Any] = {
        "kind": plugin.kind,
        "name": plugin.name,
        "distribution": f"{plugin.distribution} {plugin.version}",
        "object": plugin.value,
    }
    options: list[dict[str, Any]] = []
    if plugin.kind != "recipe":
        loaded = registry.load_plugin(plugin)
        summary = getattr(loaded, "summary", "") or (inspect.getdoc(loaded) or "").partition("\n")[0]
        facts["about"] = summary
        for side in ("source", "target"):
            if plugin.kind == "task":
                facts[side] = getattr(loaded, side).name
        if plugin.kind == "task":
            if loaded.conditions:
                facts["conditions"] = ", ".join(f"{name} ({use.name})" for name, use in loaded.conditions.items())
            facts["columns"] = ", ".join(f"{name} ({meaning})" for name, meaning in loaded.columns.items())
            facts["default recipe"] = loaded.default_recipe
        model = (
            loaded if isinstance(loaded, type) and issubclass(loaded, BaseModel) else getattr(loaded, "Options", None)
        )
        if model is not None:
            options = _options(model)
    return {**facts, "options": options}


def _options(model: type[BaseModel]) -> list[dict[str, Any]]:
    described = []
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True) if not field.is_required() else None
        described.append(
            {"key": key, "default": to_jsonable_python(default), "help": " ".join((field.description or "").split())}
        )
    return described
