"""`hf:NAME[:CONFIG]`: any data set of the `datasets` library, by hub name or local path, streaming too."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

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
from bridgeflow.data.shards import Part, Shards, ShardStream, digest
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress


class HubRows:
    """Rows of a data set on disk. Pictures and sounds stay encoded until a task pairs the row."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset = undecoded(dataset)
        self.media = media_columns(dataset)
        self.columns = tuple(dataset.column_names)
        self.fingerprint = str(dataset._fingerprint)
        self.name = name
        self.description = f"{len(dataset):,} rows of {name}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return in_words(self.dataset[index], self.media)
        except IndexError:
            raise
        except Exception as error:
            raise BridgeflowError(f"row {index} of {self.name} cannot be read ({cause(error)}).") from error


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
    path: str
    """Hub name, a local folder that `load_dataset` takes, or one that `save_to_disk` wrote."""
    config: str | None = None
    """Configuration, where the data set has several."""
    train: str = "train"
    """Split to train on."""
    held_out: str | None = None
    """Split held out; null takes test or validation where there is one, else the first `held_out_rows` of `train`."""
    held_out_rows: int = Field(default=256, ge=1)
    """Rows held out of `train` where no split serves."""
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
        own = self.held_out or next((name for name in ("test", "validation") if name in splits), None)
        if own is not None and own not in splits:
            raise BridgeflowError(f"hf:{self.path} has no split {own!r}, only {', '.join(splits)}: set data.held_out.")
        name = f"hf:{self.path}"
        chosen = splits[self.train if split == "train" or own is None else own]
        # A part of one split is held out; of an iterable data set it is the first rows that its shards give.
        apart = own is None
        if hasattr(chosen, "__len__"):
            if apart:
                count = min(self.held_out_rows, len(chosen) // 10)
                chosen = chosen.select(range(count, len(chosen)) if split == "train" else range(count))
            if not self.streaming:
                return HubRows(chosen, name)
            shards: Shards = RowPieces(undecoded(chosen), name)
            return self.stream(shards, chosen, name)
        files = self._parquet(self.train if apart or split == "train" else str(own))
        shards = ParquetFiles(files, media_columns(chosen)) if files else IterableParts(undecoded(chosen), name)
        if apart:
            shards = Part(shards, self._held(shards), split == "held_out")
        return self.stream(shards, chosen, name)

    def _held(self, shards: Shards) -> int:
        rows = shards.count(0)
        return self.held_out_rows if rows is None or len(shards.names) > 1 else min(self.held_out_rows, rows // 10)

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
            raise BridgeflowError(
                f"hf:{self.path} cannot be loaded ({cause(error)}): give a hub name that this machine can reach, or a "
                "local folder."
            ) from error
