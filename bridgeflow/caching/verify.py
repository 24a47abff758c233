"""What a cache holds, and whether it still does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bridgeflow.assembly import SIDES
from bridgeflow.caching.index import SPLITS, Index, Key
from bridgeflow.caching.shards import ShardReader, shard_path, tensor_of
from bridgeflow.data.rows import Split
from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.durable import checksum

TYPES = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}
"""How numpy reads the types of a key."""


def cache_facts(folder: Path, index: Index) -> dict[str, Any]:
    """Rows, shards, sizes, shapes and key of a cache, as JSON values."""
    key = index.key
    splits: dict[str, Any] = {
        split: {
            "rows": index.rows(split),
            "unreadable": sum(len(shard.skipped) for shard in index.shards.get(split, ())),
            "shards": len(index.shards.get(split, ())),
            "bytes": sum(shard.bytes for shard in index.shards.get(split, ())),
            "data": key.data[split].description,
            "fingerprint": key.data[split].fingerprint,
        }
        for split in SPLITS
    }
    return {
        "cache": str(folder),
        "complete": index.complete,
        "task": key.task,
        "recipe": index.recipe,
        **splits,
        **{side: getattr(key, side).model_dump(mode="json") for side in SIDES},
        "dtype": key.dtype,
        "variants": key.variants,
        "observed": key.observed,
        "shard_rows": key.shard_rows,
        **({"flow": key.flow} if key.flow else {}),
        "columns": key.columns,
        "options": key.options,
        "data": index.data,
        "bridgeflow": index.bridgeflow,
        "unreadable": index.unreadable(),
    }


def verify(folder: Path, index: Index, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Opens every shard; a sentence for each fault of its size, its checksum, its shapes or its numbers."""
    faults: list[str] = []
    total, done = sum(len(own) for own in index.shards.values()), 0
    for split in SPLITS:
        for number, shard in enumerate(index.shards.get(split, ())):
            path = shard_path(folder, split, number)
            try:
                size = path.stat().st_size
                if size != shard.bytes:
                    faults.append(f"{path} has {size:,} bytes, where {shard.bytes:,} were written.")
                elif checksum(path) != shard.checksum:
                    faults.append(f"{path} is not what was written: its checksum differs.")
                else:
                    faults += _shard_faults(path, split, shard.rows, index.key)
            except OSError as error:
                faults.append(f"{path} cannot be read ({error.strerror or error}).")
            except BridgeflowError as error:
                faults.append(str(error))
            done += 1
            if on_progress is not None:
                on_progress(done, total)
    return faults


def _shard_faults(path: Path, split: Split, rows: int, key: Key) -> list[str]:
    if rows == 0:
        return []
    variants = key.variants if split == "train" else 1
    arrays = ShardReader(path).arrays
    shapes = {side: getattr(key, side).shape for side in SIDES}
    shapes |= {f"{side}.{name}": own for side in SIDES for name, own in getattr(key, side).conditions.items()}
    needed = [f"{place}.mean" for place in shapes] + (["target.observed"] if key.observed else [])
    faults = [f"{path} lacks {name}." for name in needed if name not in arrays]
    for name, array in arrays.items():
        place, _, part = name.rpartition(".")
        wanted: tuple[int, ...] = (variants, rows)
        if part in ("mean", "std") and place in shapes:
            wanted = (variants, rows, *shapes[place])
        if array.shape[: len(wanted)] != wanted or (part in ("mean", "std") and len(array.shape) != len(wanted)):
            faults.append(f"{path}: {name} has shape {array.shape}, where {wanted} is expected.")
        if part == "mask":
            continue
        if array.dtype != np.dtype(TYPES[key.dtype]):
            faults.append(f"{path}: {name} is {array.dtype}, where {key.dtype} is expected.")
        elif not tensor_of(array.copy()).isfinite().all():
            faults.append(f"{path}: {name} holds numbers that are not finite.")
    return faults
