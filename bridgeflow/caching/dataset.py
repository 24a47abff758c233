"""`cache:DIR`: what `bridgeflow cache` made, as a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from bridgeflow import registry
from bridgeflow.caching.index import Index, read_index
from bridgeflow.caching.rows import CachedRows
from bridgeflow.config import recipe as recipes
from bridgeflow.config.validation import validated
from bridgeflow.data.rows import DataSettings, MadeFrom, Rows, Split, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Progress

NO_ORIGINAL = "none"


class Cache(DataSettings):
    """Latents that `bridgeflow cache` made. Samples and figures are made of the held-out rows of the data that were
    cached, which are opened for that; without them it trains all the same."""

    summary: ClassVar[str] = "cache:DIR, latents that bridgeflow cache made"
    at_hand: ClassVar[bool] = True
    checked_by: ClassVar[str] = "bridgeflow cache verify"
    to_hold_out: ClassVar[str] = "make the cache anew from data of which more is held out"
    path: str
    """The folder."""
    original: str | None = None
    """The data that were cached, as --data takes it, where they lie elsewhere now; none trains without looking at
    them."""
    window: int = Field(default=8, ge=1)
    """Shards whose rows are shuffled together; with no more shards than that, all rows are."""

    @classmethod
    def at(cls, location: str) -> dict[str, Any]:
        """`cache:DIR`."""
        return {"path": location}

    @classmethod
    def recipe_for(cls, section: Mapping[str, Any]) -> str | None:
        """The recipe that the cache was made for."""
        if not isinstance(section.get("path"), str):
            return None
        folder = Path(os.path.expanduser(section["path"]))
        return str(folder / read_index(folder).recipe)

    def made_from(self) -> MadeFrom | None:
        """The data that were cached."""
        try:
            index = read_index(Path(os.path.expanduser(self.path)))
        except BridgeflowError:
            return None
        section = index.data if self.original in (None, NO_ORIGINAL) else recipes.data_section(str(self.original))
        rows = index.key.data["train"]
        return MadeFrom(dict(section), rows.description, rows.fingerprint)

    def open(self, split: Split, progress: Progress | None = None) -> Rows | Stream:
        """Cached training rows; of the held-out ones the original rows, or latents alone where those are not at hand.

        Raises BridgeflowError where there is no whole cache, and where the original data are no longer those that were
        cached.
        """
        folder = Path(os.path.expanduser(self.path))
        index = read_index(folder)
        missing: str | None = None
        if self.original == NO_ORIGINAL:
            missing = f"the data that {self.path!r} was made from are left out (data.original=none)."
        settings = self._original_settings(index)

        if missing is None and (split == "held_out" or settings.at_hand):
            try:
                rows = self._opened(index, split, settings, progress)
            except Changed:
                raise
            except BridgeflowError as error:
                missing = f"the data that {self.path!r} was made from are not at hand ({str(error).rstrip('.')})."
            else:
                # Of a flow's ends the held-out ones are measured, too, not the pairs that it was trained on.
                if split == "held_out" and index.key.flow is None:
                    return rows
        as_it_is = self.original == NO_ORIGINAL
        original = partial(self._opened, index, split, settings)
        return CachedRows(folder, index, split, self.window, original, missing, as_it_is)

    def _original_settings(self, index: Index) -> DataSettings:
        named = self.original not in (None, NO_ORIGINAL)
        section = dict(recipes.data_section(str(self.original)) if named else index.data)
        kind: type[DataSettings] = registry.load("dataset", section.pop("name"))
        if named and type(self) is kind:
            raise UsageError(f"data.original={self.original!r} names a cache: name the data that it was made from.")
        mistakes: list[str] = []
        settings = validated(kind, section, "data", mistakes)
        if mistakes:
            raise BridgeflowError(f"the data that {self.path!r} was made from cannot be opened: {' '.join(mistakes)}")
        opened: DataSettings = settings
        return opened

    def _opened(
        self, index: Index, split: Split, settings: DataSettings, progress: Progress | None = None
    ) -> Rows | Stream:
        rows = settings.open(split, progress)
        before = index.key.data[split]
        if rows.fingerprint != before.fingerprint:
            raise Changed(
                f"the cache {self.path!r} is stale: its {split.replace('_', '-')} data are {rows.description} "
                f"({rows.fingerprint}) now and were {before.description} ({before.fingerprint}) when it was made; make "
                "another with bridgeflow cache, or train on it as it is with data.original=none."
            )
        return rows


class Changed(BridgeflowError):
    """The data are no longer those that were cached."""
