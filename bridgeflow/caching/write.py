"""Making a cache: on one process or several, going on where an earlier attempt stopped."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bridgeflow.assembly import Assembly, assemble
from bridgeflow.assembly.codec_files import restore_codec, save_codec
from bridgeflow.caching.encoding import encode_shard
from bridgeflow.caching.index import (
    SPLITS,
    CachedData,
    Index,
    Key,
    Shard,
    index_path,
    key_differences,
    listed,
    new_index,
    option_differences,
    read_index,
    side_of,
    write_index,
)
from bridgeflow.caching.notes import note_of, note_path, present_shards
from bridgeflow.caching.processes import Processes
from bridgeflow.caching.reading import Chunk, PairRows, read_shards, stream_shards
from bridgeflow.caching.reflow import Reflow
from bridgeflow.caching.shards import not_written, shard_path, write_file, write_shard
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.rows import Rows, Split, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.runtime.console import Progress
from bridgeflow.runtime.durable import checksum, make_folder, part_of, publish, remove_folder, remove_leftovers
from bridgeflow.runtime.lock import FolderLock
from bridgeflow.runtime.precision import warn_of_slow_bf16
from bridgeflow.runtime.randomness import seed_of

SHARD_BYTES = 32 * 2**20
"""About the size of a shard where nothing else is said."""
MOST_ROWS = 65536
"""Rows of a shard at most, however small they are."""


@dataclass(frozen=True)
class CacheOptions:
    """How latents are kept."""

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Data type (dtype) of the files."""
    variants: int = 1
    """Draws of each training row."""
    batch_size: int = 64
    """Rows that are encoded together."""
    shard_rows: int | None = None
    """Rows of the data that a file stands for; None: what makes about 32 MB."""


@dataclass
class Written:
    """A finished cache. found: shards that were there already; made: those made now, by all processes."""

    index: Index
    found: int
    made: int


def write_cache(
    recipe: Recipe,
    folder: Path,
    options: CacheOptions,
    device: str | None,
    console: Progress,
    flow: Reflow | None = None,
) -> Written:
    """Encodes both sides of every row with the recipe's codecs, fitted first where they need it. flow: a model whose
    flows end at the targets that are kept, with their starts.

    Raises UsageError where the folder holds a cache of other data or another recipe, or something else; BridgeflowError
    where another command writes in it.
    """
    processes = Processes(device)
    if not processes.is_main:
        return _write_cache(recipe, folder, options, processes, Progress(quiet=True), flow)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {str(folder)!r} is a file: a cache needs a folder.")
    with FolderLock(folder, "the cache in", console.warn):
        return _write_cache(recipe, folder, options, processes, console, flow)


def _write_cache(
    recipe: Recipe, folder: Path, options: CacheOptions, processes: Processes, console: Progress, flow: Reflow | None
) -> Written:
    from bridgeflow.assembly.preparing import open_rows

    torch.manual_seed(seed_of(recipe.training.seed, "codecs"))
    if recipe.data_name == "cache":
        raise UsageError("--data names a cache, which is encoded already: give the data that it was made from.")
    if processes.is_main:
        _check_folder(folder)
    else:
        processes.wait()
    rows = {split: open_rows(recipe, split, console) for split in SPLITS}
    if flow is not None:
        flow.open(processes.device)
    assembly = assemble(recipe, None if flow is None else flow.codecs)
    if processes.is_main:
        index = _begin(recipe, assembly, rows, folder, options, console, flow)
        processes.wait()
    processes.wait()
    if not processes.is_main:
        index = read_index(folder, whole=False)
        _restore(assembly, folder)
    if index.complete:
        return Written(index, sum(len(own) for own in index.shards.values()), 0)
    assembly.to(processes.device)
    present = {split: frozenset(present_shards(folder, split)) for split in SPLITS}
    found = sum(len(own) for own in present.values())
    if found:
        console.say(f"going on: {found:,} shards are in {folder} already")
    processes.wait()
    counts: dict[Split, int] = {}
    for split in SPLITS:
        with console.doing(f"encoding {split.replace('_', '-')} rows"):
            counts[split] = _encode_split(
                rows[split], split, present[split], index.key, assembly, folder, processes, flow, console
            )
    console.clear()
    processes.wait()
    if processes.is_main:
        index = _finish(folder, index, counts)
    processes.wait()
    return Written(index, found, sum(counts.values()) - found)


def _check_folder(folder: Path) -> None:
    if folder.is_dir() and not index_path(folder).is_file():
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        foreign = [name for name in names if name != "codecs" and not name.endswith(".yaml")]
        if foreign:
            raise UsageError(f"{str(folder)!r} holds {foreign[0]!r}, which is no cache's: choose another --output.")


def _begin(
    recipe: Recipe,
    assembly: Assembly,
    rows: dict[Split, Rows | Stream],
    folder: Path,
    options: CacheOptions,
    console: Progress,
    flow: Reflow | None,
) -> Index:
    """The index of the cache that is in the folder, or of a new one, whose codecs are fitted and kept first."""
    from bridgeflow.assembly.preparing import prepare_codecs, warn_of_losses

    before = read_index(folder, whole=False) if index_path(folder).is_file() else None
    if before is not None:
        _refuse_others(folder, option_differences(before.key, recipe))
        _restore(assembly, folder)
    else:
        warn_of_losses(assembly, rows["train"], console)
        warn_of_slow_bf16("cpu", console.warn, **recipe.modality_options)
    to_fit = [place for place, own in assembly.parts.items() if own.needs_fit]
    prepare_codecs(assembly, rows["train"], console)
    with console.doing("taking the fingerprints of the codecs"):
        key = _key(assembly, rows, options, before, flow)
    if before is not None:
        _refuse_others(folder, key_differences(before.key, key))
        return before
    try:
        make_folder(folder)
        _keep_codecs(assembly, to_fit, folder)
        name = recipe.name.removesuffix(".yaml").removesuffix(".yml").replace("/", "-").replace(":", "-").lstrip(".-")
        file = f"{name}.yaml"
        write_file(folder / file, recipe.yaml().encode())
    except OSError as error:
        raise not_written(folder, error) from error
    index = new_index(recipe, key, file)
    write_index(folder, index)
    return index


def _refuse_others(folder: Path, found: list[str]) -> None:
    if found:
        raise UsageError(
            f"{str(folder)!r} holds a cache that was made otherwise: {listed(found)}; choose another --output, or "
            "remove that one."
        )


def _key(
    assembly: Assembly,
    rows: dict[Split, Rows | Stream],
    options: CacheOptions,
    before: Index | None,
    flow: Reflow | None,
) -> Key:
    recipe = assembly.recipe
    conditions = sum(own.latent.size for own in assembly.source.conditions.values())
    sizes = assembly.source.latent.size + conditions + assembly.target.latent.size * (1 if flow is None else 2)
    per_row = sizes * getattr(torch, options.dtype).itemsize * options.variants
    usual = max(SHARD_BYTES // per_row // options.batch_size, 1) * options.batch_size
    shard_rows = options.shard_rows or (before.key.shard_rows if before is not None else min(usual, MOST_ROWS))
    return Key(
        task=recipe.task_name,
        options=recipe.options.model_dump(mode="json"),
        columns=recipe.columns,
        data={
            split: CachedData(fingerprint=own.fingerprint, description=own.description, columns=tuple(own.columns))
            for split, own in rows.items()
        },
        source=side_of(assembly, "source"),
        target=side_of(assembly, "target"),
        variants=options.variants,
        dtype=options.dtype,
        observed=assembly.sketch_bridge().needs_target_pixels,
        shard_rows=shard_rows,
        batch_size=options.batch_size,
        flow=None if flow is None else flow.key,
    )


def _keep_codecs(assembly: Assembly, fitted: list[str], folder: Path) -> None:
    """Keeps the fitted codecs, all of them or none."""
    remove_folder(folder / "codecs")
    part = part_of(folder / "codecs")
    shutil.rmtree(part, ignore_errors=True)
    for place, modality in assembly.parts.items():
        if place in fitted or modality.fitted_state() or modality.fitted_facts():
            save_codec(modality, part / place, {"modality": assembly.recipe.uses[place].name})
    if part.is_dir():
        publish(part, folder / "codecs")


def _restore(assembly: Assembly, folder: Path) -> None:
    """Gives the codecs that still need fitting the state that the cache keeps."""
    for place, modality in assembly.parts.items():
        if modality.needs_fit and (folder / "codecs" / place).is_dir():
            restore_codec(modality, folder / "codecs" / place)


def _encode_split(
    rows: Rows | Stream,
    split: Split,
    present: frozenset[int],
    key: Key,
    assembly: Assembly,
    folder: Path,
    processes: Processes,
    flow: Reflow | None,
    console: Progress,
) -> int:
    """Encodes this process's share of a split; the number of shards of the whole."""
    pair = PairRows(assembly.task, assembly.recipe.columns, split, key.variants)
    what, done = f"encoding {split.replace('_', '-')} rows", 0
    if isinstance(rows, Stream):
        count = 0
        shared = stream_shards(rows, present, processes.rank, processes.world, key.shard_rows, key.batch_size, pair)
        for number, read, chunks in shared:
            count = number + 1
            if chunks is not None:
                _write_one(folder, split, number, read, chunks, key, assembly, processes.device, flow)
                done += read
                console.status(f"{what}  {done:,}")
        return max([count, *(number + 1 for number in present)])
    count = -(-len(rows) // key.shard_rows)
    own = [number for number in range(processes.rank, count, processes.world) if number not in present]
    total = sum(min(key.shard_rows, len(rows) - number * key.shard_rows) for number in own)
    workers = assembly.recipe.training.workers
    for number, read, chunks in read_shards(rows, own, key.shard_rows, key.batch_size, pair, workers):
        _write_one(folder, split, number, read, chunks, key, assembly, processes.device, flow)
        done += read
        console(done, total, what, "rows")
    return count


def _write_one(
    folder: Path,
    split: Split,
    number: int,
    read: int,
    chunks: list[Chunk],
    key: Key,
    assembly: Assembly,
    device: torch.device,
    flow: Reflow | None,
) -> None:
    encoded = encode_shard(chunks, assembly, device, getattr(torch, key.dtype), key.observed, flow)
    path = shard_path(folder, split, number)
    write_shard(path, encoded.tensors)
    skipped = sorted(encoded.failures)
    note = Shard(
        first=number * key.shard_rows,
        read=read,
        rows=len(encoded.kept),
        skipped=tuple(skipped),
        unreadable=tuple(encoded.failures[index] for index in skipped),
        bytes=path.stat().st_size,
        checksum=checksum(path),
    )
    write_file(note_path(folder, split, number), note.model_dump_json().encode())


def _finish(folder: Path, index: Index, counts: dict[Split, int]) -> Index:
    """Gathers what is noted of every shard into the index, which is then whole. counts: shards that this process knows
    of; another one may have read a stream further."""
    shards: dict[Split, tuple[Shard, ...]] = {}
    counts = {
        split: max([count, *(number + 1 for number in present_shards(folder, split))])
        for split, count in counts.items()
    }
    for split, count in counts.items():
        noted = [note_of(folder, split, number) for number in range(count)]
        missing = [number for number, note in enumerate(noted) if note is None]
        if missing:
            raise BridgeflowError(
                f"shard {missing[0]} of {split} is missing in {str(folder)!r}, where every process wrote its own: all "
                "of them need the same folder; start again to go on."
            )
        shards[split] = tuple(note for note in noted if note is not None)
    whole = index.model_copy(update={"complete": True, "shards": shards})
    if whole.rows("train") == 0:
        reasons = whole.unreadable() or ["there are none"]
        raise BridgeflowError(f"no training row can be cached: {reasons[0]}")
    write_index(folder, whole)
    for split, count in counts.items():
        for number in range(count):
            with suppress(OSError):
                note_path(folder, split, number).unlink()
        remove_leftovers(folder / split)
    remove_leftovers(folder)
    return whole
