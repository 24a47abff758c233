"""`hf:NAME[:CONFIG]`: any data set of the `datasets` library, by hub name or local path, streaming too."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from bridgeflow.data.holding_out import HELD_OUT_ROWS, Shards, digest, rows_to_hold_out, rows_to_hold_out_of
from bridgeflow.data.hub_shards import (
    IterableParts,
    ParquetFiles,
    RowPieces,
    cause,
    identity,
    in_words,
    media_columns,
    parquet_files,
)
from bridgeflow.data.rows import DataSettings, Rows, Split, Stream
from bridgeflow.data.shards import Part, ShardStream
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Progress
from bridgeflow.runtime.durable import check_writable


class HubRows:
    """Rows of a data set on disk, of which `first` is the first one's number in the whole split. Pictures and sounds
    stay encoded until a task pairs the row."""

    def __init__(self, dataset: Any, name: str, first: int = 0) -> None:
        self.dataset = undecoded(dataset)
        self.first = first
        self.media = media_columns(dataset)
        self.columns = tuple(dataset.column_names)
        self.fingerprint = str(dataset._fingerprint)
        self.name = name
        self.description = f"{len(dataset):,} rows of {name}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        called = f"row {self.first + index} of {self.name}"
        try:
            return in_words(self.dataset[index], self.media, called)
        except IndexError:
            raise
        except Exception as error:
            raise BridgeflowError(f"{called} cannot be read ({cause(error)}).") from error


def undecoded(dataset: Any) -> Any:
    """The data set with columns of pictures and sounds left as {'path', 'bytes'}, so that a broken one breaks only its
    row and the modality is who decodes."""
    import datasets

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


def _columns(shards: Shards, name: str) -> tuple[str, ...]:
    """The columns of the first row that can be read."""
    why: BridgeflowError | None = None
    for shard in range(len(shards.names)):
        for token in shards.read(shard, 0):
            row = shards.load(token)
            if not isinstance(row, BridgeflowError):
                return tuple(row)
            why = why or row
    if why is not None:
        raise BridgeflowError(f"no row of {name} can be read, the first because: {why}")
    return ()


class HubDataset(DataSettings):
    """A data set of the `datasets` library."""

    summary: ClassVar[str] = "hf:NAME[:CONFIG], any data set of the datasets library"
    to_hold_out: ClassVar[str] = "set data.held_out to a share such as 0.2, or to the name of a split"
    path: str
    """Hub name, a local folder that `load_dataset` takes, or one that `save_to_disk` wrote."""
    config: str | None = None
    """Configuration, where the data set has several."""
    train: str = "train"
    """Split to train on."""
    held_out: str | Annotated[float, Field(ge=0, lt=1)] | None = None
    """Split held out, or a share of `train`, of which the first rows are taken then; null takes test or validation
    where there is one, else the first `held_out_rows` of `train`."""
    held_out_rows: int = Field(default=HELD_OUT_ROWS, ge=1)
    """Rows held out of `train` where no split serves and no share is given. The default is at most a tenth of them;
    another number is held out as it is."""
    streaming: bool = False
    """Reads rows as they come instead of fetching all first. Files are shared among processes and skipped on resume."""
    shuffle_buffer: int = Field(default=1000, ge=0)
    """Rows of a stream that a process shuffles among each other, after the order of the files; 0 shuffles nothing."""

    @classmethod
    def at(cls, location: str) -> dict[str, Any]:
        """`hf:NAME` or `hf:NAME:CONFIG`."""
        path, _, config = location.partition(":")
        return {"path": path, **({"config": config} if config else {})}

    def open(self, split: Split, progress: Progress | None = None) -> Rows | Stream:
        """Raises BridgeflowError where the data set, its configuration or its split is not to be had."""
        if progress is not None:
            progress(0, 1, f"loading {self.path}")
        splits = self._load()
        if self.train not in splits:
            raise BridgeflowError(
                f"hf:{self.path} has no split {self.train!r}, only {', '.join(splits)}: set data.train."
            )
        own: str | None = None
        if not isinstance(self.held_out, float):
            own = self.held_out or next((name for name in ("test", "validation") if name in splits), None)
        if own is not None and own not in splits:
            raise BridgeflowError(f"hf:{self.path} has no split {own!r}, only {', '.join(splits)}: set data.held_out.")
        name = f"hf:{self.path}"
        chosen = splits[self.train if split == "train" or own is None else own]
        # A part of one split is held out; of an iterable data set it is the first rows that its shards give.
        apart = own is None
        if hasattr(chosen, "__len__"):
            first = 0
            if apart:
                count = self._held_of(len(chosen))
                first = count if split == "train" else 0
                chosen = chosen.select(range(count, len(chosen)) if split == "train" else range(count))
            if not self.streaming:
                return HubRows(chosen, name, first)
            shards: Shards = RowPieces(undecoded(chosen), name, first)
            return self.stream(shards, chosen, name)
        files = self._parquet(self.train if apart or split == "train" else str(own))
        shards = ParquetFiles(files, media_columns(chosen)) if files else IterableParts(undecoded(chosen), name)
        if apart:
            asked = not isinstance(self.held_out, float) and self.held_out_rows != HELD_OUT_ROWS
            shards = Part(shards, self._held(shards), split == "held_out", asked)
        return self.stream(shards, chosen, name)

    def _held_of(self, rows: int) -> int:
        """How many of so many rows are held out; of a share at least one, and never all.

        Raises UsageError for a number that is not below that of all rows.
        """
        if not isinstance(self.held_out, float):
            return rows_to_hold_out(rows, self.held_out_rows, f"hf:{self.path}")
        return min(max(1, round(self.held_out * rows)), rows - 1) if self.held_out and rows else 0

    def _held(self, shards: Shards) -> int:
        """The same of shards. Raises UsageError for a share of rows that nobody has counted."""
        if not isinstance(self.held_out, float):
            return rows_to_hold_out_of(shards, self.held_out_rows)
        rows = shards.count(0) if len(shards.names) == 1 else None
        if rows is None:
            raise UsageError(
                f"data.held_out={self.held_out} is a share, and only reading the stream of hf:{self.path} shows how "
                "long it is: set data.held_out_rows, or name a split with data.held_out."
            )
        return self._held_of(rows)

    def stream(self, shards: Shards, dataset: Any, name: str) -> Stream:
        """The stream; where the data set does not say its columns, its first row does."""
        columns = tuple(dataset.column_names or ())
        if not columns:
            columns = _columns(shards, name)
        given = [
            self.path,
            self.config,
            self.train,
            self.held_out,
            self.held_out_rows,
            getattr(dataset, "_fingerprint", ""),
        ]
        own = digest(*map(str, given), *map(identity, shards.names))
        return ShardStream(shards, columns, f"a stream of {name}", own, self.shuffle_buffer)

    def _parquet(self, split: str) -> list[str]:
        """The Parquet files of a split, which can be begun in the middle; none where it is made of others."""
        import datasets

        if (Path(self.path) / "dataset_dict.json").is_file() or (Path(self.path) / "state.json").is_file():
            return []
        return parquet_files(datasets.load_dataset_builder(self.path, self.config), split)

    def _load(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        # What it would log as errors reaches the user as the error itself.
        datasets.utils.logging.set_verbosity(logging.CRITICAL)
        try:
            if (Path(self.path) / "dataset_dict.json").is_file() or (Path(self.path) / "state.json").is_file():
                loaded = datasets.load_from_disk(self.path)
                if not isinstance(loaded, datasets.DatasetDict):
                    loaded = datasets.DatasetDict({self.train: loaded})
                return loaded
            return datasets.load_dataset(self.path, self.config, streaming=self.streaming)
        except Exception as error:
            unwritable = _unwritable_cache(error)
            if unwritable is not None:
                why = f"nothing can be written to its cache {unwritable}: set HF_HOME to a folder that can be written"
            elif Path(self.path).exists():
                why = "see that its files are whole, and of a kind that the datasets library reads"
            else:
                why = "give a hub name that this machine can reach, or a local folder"
            raise BridgeflowError(f"hf:{self.path} cannot be loaded ({cause(error)}): {why}.") from error


def _unwritable_cache(error: BaseException) -> str | None:
    """The cache of the Hugging Face libraries which an error is about, where nothing can be written to it."""
    import datasets
    from huggingface_hub import constants

    caches = [Path(cache).absolute() for cache in (datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)]
    causes: BaseException | None = error
    while causes is not None:
        if isinstance(causes, OSError) and causes.filename:
            place = Path(os.fsdecode(causes.filename)).absolute()
            for cache in caches:
                if place == cache or cache in place.parents or place in cache.parents:
                    try:
                        check_writable(cache)
                    except OSError:
                        return repr(str(cache))
        causes = causes.__cause__ or causes.__context__
    return None
