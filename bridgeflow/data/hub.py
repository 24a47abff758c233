"""`hf:NAME[:CONFIG]`: any data set of the `datasets` library, by hub name or local path, streaming too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from bridgeflow.data.rows import DataSettings, Rows, Split, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress


class HubRows:
    """Rows of a data set on disk. Pictures and sounds stay encoded until a task pairs the row."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset = undecoded(dataset)
        self.columns = tuple(dataset.column_names)
        self.fingerprint = str(dataset._fingerprint)
        self.name = name
        self.description = f"{len(dataset):,} rows of {name}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.dataset[index]
        except IndexError:
            raise
        except Exception as error:
            raise BridgeflowError(f"row {index} of {self.name} cannot be read ({_cause(error)}).") from error


class HubStream:
    """Rows that arrive one after another, shuffled through a buffer."""

    def __init__(self, dataset: Any, name: str, buffer: int, seed: int = 0) -> None:
        self.dataset = undecoded(dataset)
        self.name = name
        self.fingerprint = f"stream:{name}"
        self.description = f"a stream of {name}"
        self.buffer = buffer
        self.seed = seed
        # Some streams tell their columns only with the first row.
        self.columns = tuple(dataset.column_names or next(self._read(self.dataset), ()))

    def rows_from(self, position: int, epoch: int) -> Iterator[dict[str, Any]]:
        """Rows of an epoch from a position on, in an order that depends on the epoch alone."""
        shuffled = (
            self.dataset.shuffle(seed=self.seed + epoch, buffer_size=self.buffer) if self.buffer else self.dataset
        )
        yield from self._read(shuffled.skip(position) if position else shuffled)

    def _read(self, dataset: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from dataset
        except Exception as error:
            raise BridgeflowError(
                f"{self.description} broke off ({_cause(error)}): set data.streaming=false."
            ) from error


def _cause(error: BaseException) -> str:
    """The first cause of an error, which libraries wrap in errors of their own, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def undecoded(dataset: Any) -> Any:
    """The data set with columns of pictures and sounds left as {'path', 'bytes'}, so that a broken one breaks only its
    row and the modality is who decodes."""
    import datasets

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


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
    """Reads rows as they come instead of fetching all first."""
    shuffle_buffer: int = Field(default=1000, ge=0)
    """Rows that a stream is shuffled within."""

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
        if own is not None:
            chosen = splits[self.train if split == "train" else own]
        elif self.streaming:
            whole = splits[self.train]
            chosen = whole.skip(self.held_out_rows) if split == "train" else whole.take(self.held_out_rows)
        else:
            whole = splits[self.train]
            count = min(self.held_out_rows, len(whole) // 10)
            chosen = whole.select(range(count, len(whole)) if split == "train" else range(count))
        name = f"hf:{self.path}"
        return HubStream(chosen, name, self.shuffle_buffer) if self.streaming else HubRows(chosen, name)

    def _load(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        try:
            if (Path(self.path) / "dataset_dict.json").is_file() or (Path(self.path) / "state.json").is_file():
                loaded = datasets.load_from_disk(self.path)
                if not isinstance(loaded, datasets.DatasetDict):
                    loaded = datasets.DatasetDict({self.train: loaded})
                if self.streaming:
                    return {name: part.to_iterable_dataset() for name, part in loaded.items()}
                return loaded
            return datasets.load_dataset(self.path, self.config, streaming=self.streaming)
        except Exception as error:
            raise BridgeflowError(
                f"hf:{self.path} cannot be loaded ({_cause(error)}): give a hub name that this machine can reach, or a "
                "local folder."
            ) from error
