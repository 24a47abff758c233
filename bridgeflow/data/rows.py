"""The contract of a data set: rows that a task's `pair` reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, Progress
from bridgeflow.settings import Settings

if TYPE_CHECKING:
    from bridgeflow.assembly import Assembly

Split = Literal["train", "held_out"]

NOTHING_LEFT = "nothing to train on; give data with rows, or hold fewer out (data.held_out, data.held_out_rows)."


class NamedRow(dict[str, Any]):
    """A row that knows what a person would call it, such as its file and its key or number there."""

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        super().__init__(values)
        self.name = name


@runtime_checkable
class Rows(Protocol):
    """A data set of known length: `rows[i]` is a mapping from column to value.

    Reading a broken row raises BridgeflowError with the row's name; the loop counts it and goes on.
    """

    columns: tuple[str, ...]
    fingerprint: str
    """Changes when the rows would."""
    description: str
    """A few words for the person who waits: '16,384 scenes', '212 photographs in ./photos'."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@runtime_checkable
class Stream(Protocol):
    """A data set of unknown length, read in order."""

    columns: tuple[str, ...]
    fingerprint: str
    description: str

    def rows_from(self, position: int, epoch: int) -> Iterator[dict[str, Any]]:
        """Rows of an epoch from a position on, the same ones every time."""
        ...


class Order(Protocol):
    """A permutation of rows: the row at each place of an epoch."""

    def __getitem__(self, place: int) -> int: ...


@runtime_checkable
class OrderedRows(Rows, Protocol):
    """Rows that say in what order training takes them, where it matters how they are stored."""

    def order(self, seed: int, epoch: int) -> Order:
        """The rows of an epoch, each once, the same for every (seed, epoch)."""
        ...


@runtime_checkable
class EncodedRows(OrderedRows, Protocol):
    """Rows whose latents were encoded before: training gathers them a batch at a time, and pairs no row."""

    without_items: str | None
    """A sentence on why the items that were encoded cannot be read, where that is known; latents are there all the
    same."""

    @property
    def has_starts(self) -> bool:
        """Whether the target latents say where the flows began that ended at them (`Latent.start`)."""
        ...

    def check_task(self, task: str) -> None:
        """Raises UsageError where the latents are another task's."""
        ...

    def lend_codecs(self, assembly: Assembly) -> None:
        """Gives a recipe's codecs the state that they had when the latents were made. Raises UsageError, with the
        reason, where the recipe encodes otherwise."""
        ...

    def check(self, assembly: Assembly) -> None:
        """Raises UsageError, with the reason, where a recipe with its codecs would not encode what is kept."""
        ...

    def gather(self, indices: Sequence[int], epochs: Sequence[int]) -> tuple[Latent, Latent]:
        """Source and target latents of rows; each row is asked for in an epoch, counted from 0."""
        ...


@dataclass(frozen=True)
class MadeFrom:
    """Data that others were made from: the section `data` of a recipe that opens them, and the description and
    fingerprint of their training rows."""

    section: dict[str, Any]
    description: str
    fingerprint: str


class JoinedRows:
    """The rows of several data sets of the same columns, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = list(parts)
        self.columns = self._parts[0].columns
        self.fingerprint = "+".join(part.fingerprint for part in self._parts)
        self.description = " and ".join(part.description for part in self._parts)

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row. Raises IndexError beyond the last, and what the data set raises."""
        for part in self._parts:
            if 0 <= index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


class DataSettings(Settings, ABC):
    """Base class of a data set's settings, found under the entry point group `bridgeflow.datasets`.

    `--data NAME` builds it without arguments, `--data NAME:LOCATION` through `at`.
    """

    summary: ClassVar[str] = ""
    at_hand: ClassVar[bool] = False
    """True where opening it only looks at what lies on the disk: nothing is fetched or made."""
    of_files: ClassVar[bool] = True
    """False where no row holds a file, only what the data set makes itself: then it is no matter how files are read."""
    checked_by: ClassVar[str] = "bridgeflow data check"
    """The command that reports what cannot be read of it."""
    to_hold_out: ClassVar[str] = "raise data.held_out"
    """What holds out more of its rows, as a clause for whoever has too few to score on."""
    knowledge: ClassVar[str] = ""
    """What a model that was trained on these data knows, and what it does not: a sentence for its card and for whoever
    gives it something else."""
    known_columns: ClassVar[tuple[str, ...]] = ()
    """Columns that its rows have whatever the settings; empty where only opening it shows them."""

    @classmethod
    def at(cls, location: str) -> dict[str, Any]:
        """The settings that `NAME:LOCATION` means, as keys of a recipe's `data`."""
        raise UsageError(f"this data set takes no location, so leave {location!r} out.")

    @classmethod
    def recipe_for(cls, section: Mapping[str, Any]) -> str | None:
        """The recipe, a name or a YAML file, that training takes for a recipe's section `data` where none is named;
        None leaves it to the task."""
        return None

    def made_from(self) -> MadeFrom | None:
        """The data that these were made from, which a model that is given away names instead; None for data that are
        not made of others, or where that is no longer known."""
        return None

    @abstractmethod
    def open(self, split: Split, progress: Progress | None = None) -> Rows | Stream:
        """The rows of a split. Training and held-out rows share no example."""

    def open_first(self, count: int, progress: Progress | None = None) -> Rows | Stream:
        """The first `count` training rows, or more of them, where no others will be read. To be overridden where making
        or fetching all of them takes long."""
        return self.open("train", progress)
