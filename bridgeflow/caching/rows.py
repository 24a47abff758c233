"""The rows of a cache: latents gathered from shards, and the items that they were made from where those are at hand."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridgeflow import registry
from bridgeflow.assembly import SIDES, Assembly
from bridgeflow.assembly.codec_files import restore_codec
from bridgeflow.caching.encoding import latent_of
from bridgeflow.caching.index import CachedSide, Index, check_fits
from bridgeflow.caching.order import WindowedOrder
from bridgeflow.caching.shards import ShardReader, shard_path, tensor_of
from bridgeflow.data.rows import Rows, Split, Stream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Latent

Original = Callable[[], Rows | Stream]
"""Opens the rows that were cached; raises BridgeflowError where they are not at hand."""


class CachedRows:
    """Rows whose latents are kept: `gather` gives those, `rows[i]` the row itself, from the data that were cached.

    Of the shards, `window` and one more are mapped at a time.
    """

    def __init__(
        self,
        folder: Path,
        index: Index,
        split: Split,
        window: int,
        original: Original,
        missing: str | None = None,
        as_it_is: bool = False,
    ) -> None:
        self.folder, self.index, self.split, self.window = folder, index, split, window
        self.original = original
        self.without_items = missing
        """A sentence on why rows cannot be read, where that is known; latents are there all the same."""
        self.as_it_is = as_it_is
        """Whether it is no matter that the data would give other latents by now."""
        data = index.key.data[split]
        self.columns = data.columns
        self.fingerprint = f"cache-{data.fingerprint}"
        self.shards = index.shards[split]
        self.counts = [shard.rows for shard in self.shards]
        self.firsts = [0, *np.cumsum(self.counts).tolist()]
        self.description = f"{len(self):,} cached rows in {folder}"
        self._mapped: OrderedDict[int, ShardReader] = OrderedDict()
        self._items: Rows | Stream | None = None

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row that the `index`-th latents were made from."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        if self.without_items is not None:
            raise BridgeflowError(self.without_items)
        if self._items is None:
            self._items = self.original()
        if isinstance(self._items, Stream):
            raise BridgeflowError(f"{self._items.description} cannot be asked for row {index}: it is read in order.")
        number = self._shard_of(index)
        shard = self.shards[number]
        place = index - self.firsts[number]
        row = shard.first + place
        for skipped in shard.skipped:
            row += skipped <= row
        return self._items[row]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": OrderedDict(), "_items": None}

    # -- what training reads -----------------------------------------------------------------------------

    def order(self, seed: int, epoch: int) -> WindowedOrder:
        """The rows of an epoch in the order of training."""
        return WindowedOrder(self.counts, self.window, seed, epoch)

    def gather(self, indices: Sequence[int], epochs: Sequence[int]) -> tuple[Latent, Latent]:
        """Source and target latents of rows, in the type of the files; epoch e takes variant e mod variants."""
        rows = np.asarray(indices)
        numbers = np.asarray([self._shard_of(index) for index in indices])
        places = rows - np.asarray(self.firsts)[numbers]
        draws = np.asarray(epochs) % self._variants
        gathered: dict[str, np.ndarray[Any, Any]] = {}
        for number in dict.fromkeys(numbers.tolist()):
            here = np.flatnonzero(numbers == number)
            for name, array in self._shard(number).arrays.items():
                if name not in gathered:
                    gathered[name] = np.empty((len(rows), *array.shape[2:]), array.dtype)
                gathered[name][here] = array[draws[here], places[here]]
        tensors = {name: tensor_of(array) for name, array in gathered.items()}
        return latent_of(tensors, "source"), latent_of(tensors, "target")

    @property
    def _variants(self) -> int:
        return self.index.key.variants if self.split == "train" else 1

    def _shard_of(self, index: int) -> int:
        return bisect_right(self.firsts, index) - 1

    def _shard(self, number: int) -> ShardReader:
        if number in self._mapped:
            self._mapped.move_to_end(number)
        else:
            self._mapped[number] = ShardReader(shard_path(self.folder, self.split, number))
            if len(self._mapped) > self.window + 1:
                self._mapped.popitem(last=False)
        return self._mapped[number]

    @property
    def has_starts(self) -> bool:
        """True for the ends of a model's flows."""
        return self.index.key.flow is not None

    # -- what training checks ----------------------------------------------------------------------------

    def check_task(self, task: str) -> None:
        """Raises UsageError where the latents are another task's."""
        if not registry.is_same("task", task, self.index.key.task):
            raise UsageError(
                f"the cache {str(self.folder)!r} was made for the task {self.index.key.task!r}, not for {task!r}: make "
                "another with bridgeflow cache."
            )

    def lend_codecs(self, assembly: Assembly) -> None:
        """Gives a recipe's codecs the state that they had when the latents were made.

        Raises UsageError, with the reason, where the recipe encodes otherwise.
        """
        for place, modality in assembly.parts.items():
            kept = self.folder / "codecs" / place
            if modality.needs_fit and kept.is_dir() and not self._differs(assembly, place.partition(".")[0]):
                restore_codec(modality, kept)
        self.check(assembly)

    def check(self, assembly: Assembly) -> None:
        """Raises UsageError, with the reason, where a recipe with its codecs would not encode what is kept."""
        check_fits(self.folder, self.index.key, assembly)
        of_files = registry.load("dataset", self.index.data["name"]).of_files
        for side in SIDES if of_files and not self.as_it_is else ():
            before: CachedSide = getattr(self.index.key, side)
            if before.reading != assembly.modality(side).reading:
                raise UsageError(
                    f"the cache {str(self.folder)!r} is stale: {before.modality!r} reads files in another way than "
                    "when it was made (colour profiles, say); make another with bridgeflow cache, or train on it as "
                    "it is with data.original=none."
                )
        for side in SIDES:
            assembly.modality(side).unload()

    def _differs(self, assembly: Assembly, side: str) -> bool:
        options: dict[str, Any] = getattr(self.index.key, side).options
        return options != assembly.modality(side).options.model_dump(mode="json")
