"""What a cache says of itself: its key, its shards, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

import bridgeflow
from bridgeflow import registry
from bridgeflow.assembly import SIDES, Assembly
from bridgeflow.caching.shards import write_file
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.rows import Split
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.settings import Settings

FORMAT = 1
SPLITS: tuple[Split, Split] = ("train", "held_out")


class CachedSide(Settings):
    """A modality as it was when its latents were made."""

    modality: str
    """Registered name."""
    options: dict[str, Any]
    """Its options."""
    fingerprint: str
    """`Modality.fingerprint()` with the fitted codec."""
    reading: int = 0
    """`Modality.reading`; 0 where the data hold no files."""
    layout: Literal["grid", "sequence"]
    """Layout of its latent."""
    shape: tuple[int, ...]
    """Shape of its latent, without rows."""
    conditions: dict[str, tuple[int, ...]] = {}
    """Shapes of the latents of a task's conditions, by name."""


class CachedData(Settings):
    """A split of the data as it was."""

    fingerprint: str
    """`Rows.fingerprint`."""
    description: str
    """`Rows.description`."""
    columns: tuple[str, ...]
    """`Rows.columns`."""


class Key(Settings):
    """What the latents depend on."""

    task: str
    """Registered name of the task."""
    options: dict[str, Any]
    """Options of the task."""
    columns: dict[str, str]
    """Renamed columns."""
    data: dict[Split, CachedData]
    """The data by split."""
    source: CachedSide
    """Where the flow starts."""
    target: CachedSide
    """Where it ends."""
    variants: int
    """Draws of each training row."""
    dtype: Literal["float32", "float16", "bfloat16"]
    """Data type (dtype) of the files."""
    observed: bool
    """Whether what the target's codec saw is kept too."""
    shard_rows: int
    """Rows of the data that a shard stands for."""
    batch_size: int
    """Rows that were encoded together."""
    flow: dict[str, Any] | None = None
    """`Reflow.key` of the model whose flows end at the targets; None for targets of the data."""


class Shard(Settings):
    """A shard that is written."""

    first: int
    """Number of its first row in the data."""
    read: int
    """Rows of the data that it stands for."""
    rows: int
    """Rows that it holds: those that could be read."""
    skipped: tuple[int, ...] = ()
    """Numbers of the rows that could not be read."""
    unreadable: tuple[str, ...] = ()
    """A sentence for each of those."""
    bytes: int
    """Size of its file."""
    checksum: str
    """Checksum of its file, see `bridgeflow.runtime.durable.checksum`."""


class Index(Settings):
    """The file index.json of a cache."""

    format: int
    """Version of the layout."""
    complete: bool
    """False while shards are missing."""
    bridgeflow: str
    """Version that made it."""
    recipe: str
    """File in the folder with the recipe that it was made for."""
    data: dict[str, Any]
    """Section `data` of the recipe: where the items themselves are."""
    key: Key
    """What the latents depend on."""
    shards: dict[Split, tuple[Shard, ...]] = {}
    """The shards of each split."""

    def rows(self, split: Split) -> int:
        """Rows of a split that are there."""
        return sum(shard.rows for shard in self.shards.get(split, ()))

    def unreadable(self) -> list[str]:
        """A sentence for each row that is not there."""
        return [sentence for split in SPLITS for shard in self.shards.get(split, ()) for sentence in shard.unreadable]


def index_path(folder: Path) -> Path:
    """The file that says what a cache is."""
    return folder / "index.json"


def write_index(folder: Path, index: Index) -> None:
    """Writes the index, whole or not at all."""
    facts = index.model_dump(mode="json")
    for side in SIDES:
        # Left out where there are none, so that versions before them still read the cache.
        if not facts["key"][side]["conditions"]:
            del facts["key"][side]["conditions"]
    if index.key.flow is None:
        del facts["key"]["flow"]
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    write_file(index_path(folder), text.encode())


def read_index(folder: Path, whole: bool = True) -> Index:
    """The index of a cache.

    Raises BridgeflowError where there is none, where it is of another format, and, with `whole`, where shards are still
    missing.
    """
    path = index_path(folder)
    if not path.is_file():
        raise BridgeflowError(
            f"there is no cache in {str(folder)!r}: make one with bridgeflow cache --task TASK --data DATA -o {folder}."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts.get("format") if isinstance(facts, dict) else None
        if version != FORMAT and isinstance(version, int):
            raise BridgeflowError(
                f"the cache {str(folder)!r} has format {version}, but this bridgeflow reads {FORMAT}: make it anew, or "
                f"use the bridgeflow that made it ({facts.get('bridgeflow', 'unknown')})."
            )
        index = Index.model_validate(facts)
    except (OSError, ValueError, ValidationError) as error:
        reason = f"{error.error_count()} keys are not as expected" if isinstance(error, ValidationError) else str(error)
        raise BridgeflowError(
            f"the index {str(path)!r} is damaged ({reason}): remove {str(folder)!r} and make the cache anew."
        ) from error
    if whole and not index.complete:
        raise BridgeflowError(
            f"the cache {str(folder)!r} is not finished: give the same bridgeflow cache command once more, and it goes "
            "on at the first missing shard."
        )
    return index


def new_index(recipe: Recipe, key: Key, file: str) -> Index:
    """The index of a cache without shards."""
    data = {"name": recipe.data_name, **recipe.data.model_dump(mode="json")}
    return Index(format=FORMAT, complete=False, bridgeflow=bridgeflow.__version__, recipe=file, data=data, key=key)


def side_of(assembly: Assembly, side: str) -> CachedSide:
    """A modality as it is now, its codec fitted, for the data of the recipe."""
    modality = assembly.modality(side)
    return CachedSide(
        modality=getattr(assembly.recipe.task, side).name,
        options=modality.options.model_dump(mode="json"),
        fingerprint=modality.fingerprint(),
        reading=modality.reading if assembly.recipe.data.of_files else 0,
        layout=modality.latent.layout,
        shape=modality.latent.shape,
        conditions={name: own.latent.shape for name, own in modality.conditions.items()},
    )


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], section: str) -> list[str]:
    before, after = dict(_leaves(old, section)), dict(_leaves(new, section))
    paths = [path for path in dict.fromkeys([*before, *after]) if before.get(path) != after.get(path)]
    # Of a component that is another one, its name says all.
    others = tuple(path.removesuffix("name") for path in paths if path.endswith(".name"))
    told = [path for path in paths if path.endswith(".name") or not path.startswith(others)]
    return [f"{path} is {_value(after, path)} here and was {_value(before, path)}" for path in told]


def _value(leaves: Mapping[str, Any], path: str) -> str:
    return repr(leaves[path]) if path in leaves else "not set"


def option_differences(key: Key, recipe: Recipe) -> list[str]:
    """What a recipe would encode otherwise than the latents of a key were, by its options alone: a clause for each."""
    if not registry.is_same("task", recipe.task_name, key.task):
        return [f"the task is {recipe.task_name!r} here and was {key.task!r}"]
    found = _changed(key.options, recipe.options.model_dump(mode="json"), "options")
    found += _changed(key.columns, recipe.columns, "columns")
    for side, options in (("source", recipe.source_options), ("target", recipe.target_options)):
        found += _changed(getattr(key, side).options, options.model_dump(mode="json"), side)
    return found


def recipe_differences(key: Key, assembly: Assembly) -> list[str]:
    """The same, with what its codecs are fitted to or pretrained on."""
    found = option_differences(key, assembly.recipe)
    return found or [f for side in SIDES for f in side_differences(side, getattr(key, side), side_of(assembly, side))]


def side_differences(side: str, old: CachedSide, new: CachedSide) -> list[str]:
    """What differs between two states of a side."""
    if old.modality != new.modality:
        return [f"the {side} is {new.modality!r} here and was {old.modality!r}"]
    found = _changed(old.options, new.options, side)
    if not found and (old.fingerprint, old.shape, old.conditions) != (new.fingerprint, new.shape, new.conditions):
        found = [f"the {side}'s codec has fingerprint {new.fingerprint} here and had {old.fingerprint}"]
    return found


def key_differences(old: Key, new: Key) -> list[str]:
    """What differs between the keys of two caches: a clause for each thing."""
    if old.task != new.task:
        return [f"the task is {new.task!r} here and was {old.task!r}"]
    found = _changed(old.options, new.options, "options") + _changed(old.columns, new.columns, "columns")
    for split in SPLITS:
        before, after = old.data[split], new.data[split]
        if before.fingerprint != after.fingerprint:
            found.append(
                f"the {split} data are {after.description} ({after.fingerprint}) here and were "
                f"{before.description} ({before.fingerprint})"
            )
    for side in SIDES:
        found += side_differences(side, getattr(old, side), getattr(new, side))
        if getattr(old, side).reading != getattr(new, side).reading:
            found.append(f"the {side}'s files are read in another way here than they were")
    for name in ("variants", "dtype", "observed", "shard_rows", "batch_size"):
        found += _changed({name: getattr(old, name)}, {name: getattr(new, name)}, "")
    found += _changed(old.flow or {}, new.flow or {}, "flow")
    return found


def check_fits(folder: Path, key: Key, assembly: Assembly) -> None:
    """Raises UsageError, with the reason, where the latents of a cache are not what a recipe would encode."""
    found = recipe_differences(key, assembly)
    if assembly.sketch_bridge().needs_target_pixels and not key.observed:
        found.append("encoding.tower or alignment looks at the target before its codec, which was not kept")
    if found:
        raise UsageError(
            f"the cache {str(folder)!r} was made otherwise than this recipe encodes: {listed(found)}; train as it was "
            f"made (leave --recipe and these keys out), or make another with bridgeflow cache."
        )


def listed(found: list[str], most: int = 4) -> str:
    """Clauses in a row, the first few of them."""
    more = f"; and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(found[:most]) + more
