"""What is noted of each shard of a cache that is being made."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from bridgeflow.caching.index import Shard
from bridgeflow.caching.shards import shard_path
from bridgeflow.data.rows import Split


def note_path(folder: Path, split: Split, number: int) -> Path:
    """The file beside a shard that says what it holds, until the index does."""
    return shard_path(folder, split, number).with_suffix(".json")


def noted_shards(folder: Path, split: Split) -> tuple[Shard, ...]:
    """What an unfinished cache has of a split so far."""
    return tuple(
        note for number in present_shards(folder, split) if (note := note_of(folder, split, number)) is not None
    )


def note_of(folder: Path, split: Split, number: int) -> Shard | None:
    """What is noted of a shard, where it is there and whole."""
    try:
        shard = Shard.model_validate(json.loads(note_path(folder, split, number).read_text(encoding="utf-8")))
        return shard if shard_path(folder, split, number).stat().st_size == shard.bytes else None
    except (OSError, ValueError, ValidationError):
        return None


def present_shards(folder: Path, split: Split) -> list[int]:
    """Numbers of the shards that are there and whole."""
    numbers = sorted(int(path.stem) for path in (folder / split).glob("*.json") if path.stem.isdigit())
    return [number for number in numbers if note_of(folder, split, number) is not None]
