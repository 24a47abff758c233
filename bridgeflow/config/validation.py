"""What is wrong with the values of settings, in sentences that name the key and the nearest one that exists."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bridgeflow.errors import BridgeflowError
from bridgeflow.registry.component import Component


def validated(model: type[BaseModel], values: Mapping[str, Any], section: str, mistakes: list[str]) -> Any:
    """The model of those values; on failure None, with a sentence for each mistake added to `mistakes`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found: dict[tuple[str, ...], list[Any]] = {}
        for problem in error.errors():
            found.setdefault(_without_tags(problem["loc"], values), []).append(problem)
        for path, problems in found.items():
            # A union reports each of its forms; the one that got furthest is the one that was meant.
            if not any(other[: len(path)] == path for other in found if other != path):
                place = ".".join([*([section] if section else []), *path])
                mistakes.append(f"{place or 'recipe'}: {_sentence(model, problems, values)}")
        return None


_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list, such as [1, 2]",
    "list_type": "a list, such as [1, 2]",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def _sentence(model: type[BaseModel], problems: Sequence[Any], values: Mapping[str, Any]) -> str:
    """What is wrong at one place; several problems there are the forms of a union, none of which fits."""
    problem, context = problems[0], problems[0].get("ctx", {})
    kind, given = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        known = sorted(_keys_at(model, problem["loc"][:-1], values))
        inside = [key for key in known if problem["loc"][-1] in _keys_at(model, (*problem["loc"][:-1], key), values)]
        if inside:
            places = " or ".join(repr(f"{key}.{problem['loc'][-1]}") for key in inside)
            return f"unknown key. Did you mean {places}?"
        return f"unknown key. {_nearest(problem['loc'][-1], known, 'Known here')}"
    if kind == "missing":
        return f"this {'value' if isinstance(problem['loc'][-1], int) else 'key'} is required."
    if kind == "union_tag_invalid":
        names = [name.strip().strip("'") for name in context["expected_tags"].split(",")]
        return f"no {context['tag']!r}. {_nearest(context['tag'], names, 'One of these is expected')}"
    if kind == "union_tag_not_found":
        return "its name is missing, such as {name: ...}."
    if kind == "value_error":
        return f"{problem['msg'].removeprefix('Value error, ').rstrip('.')}."
    expected = dict.fromkeys(_expected(own) for own in problems)
    shown = "null" if given is None else str(given).lower() if isinstance(given, bool) else repr(given)
    fix = f"; write {given!r} as its name" if kind == "model_attributes_type" and isinstance(given, str) else ""
    return f"should be {' or '.join(expected)}, not {shown}{fix}."


def _expected(problem: Any) -> str:
    if problem["type"] == "too_long":
        return f"at most {problem['ctx']['max_length']} values"
    if problem["type"] == "too_short":
        return f"at least {problem['ctx']['min_length']} values"
    return _EXPECTED.get(problem["type"]) or str(problem["msg"]).removeprefix("Input should be ")


def _nearest(name: Any, known: Sequence[str], otherwise: str) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"{otherwise}: {', '.join(known) or 'none'}."


def _without_tags(location: Sequence[Any], values: Any) -> tuple[str, ...]:
    """The keys of a pydantic location, without the tags of unions that pydantic puts between them."""
    keys: list[str] = []
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(values, Mapping):
            if part in values:
                values = values[part]
            elif not last or values.get("name") == part:
                continue
        elif isinstance(values, list | tuple) and isinstance(part, int):
            if part < len(values):
                values = values[part]
        else:
            continue
        keys.append(str(part))
    return tuple(keys)


def _keys_at(model: type[BaseModel], location: Sequence[Any], values: Any) -> set[str]:
    """Keys that a model knows at a location of a validation error of those values."""
    models = [model]
    for part in location:
        tagged = [m for m in models if "name" in m.model_fields and m.model_fields["name"].default == part]
        if tagged and not any(part in m.model_fields for m in models):
            models = tagged
            continue
        values = values.get(part) if isinstance(values, Mapping) else None
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = [found for field in fields for found in _settings_of(field, values)]
    return {key for m in models for key in m.model_fields}


def _settings_of(field: FieldInfo, values: Any) -> list[type[BaseModel]]:
    """The settings that a field may hold; of a plugin, those that its values name."""
    component = next((own for own in field.metadata if isinstance(own, Component)), None)
    if component is None:
        return _models(field.annotation)
    try:
        return [component.settings(values)]
    except BridgeflowError:
        # A name that is not installed is a mistake of its own.
        return []


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in _models(argument)]
