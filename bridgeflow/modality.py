"""The contract of a modality: what a plugin author writes so that the engine can flow from it and to it.

A modality turns files or values into *items* (whatever the author likes), items into a batch of tensors, a
batch into a `Latent`, and a latent back into items. It is frozen: the engine never trains it. The engine
knows nothing of it but this file.
"""

from __future__ import annotations

import hashlib
import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.randomness import Randomness, normal
from bridgeflow.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

Item = Any
"""One example of a modality, in a form of its author's choice: a string, an array, a small dataclass."""

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, what)` by whatever takes long."""

API_VERSION = 1


@dataclass(frozen=True)
class LatentSpec:
    """Shape and layout of a modality's latent, without the batch axis.

    `grid` is (C, *sizes): channels, then one or more axes with neighbourhoods, such as (C, H, W).
    `sequence` is (L, D): L positions of D features.
    """

    shape: tuple[int, ...]
    layout: Literal["grid", "sequence"]

    def __post_init__(self) -> None:
        # A list compares unequal to the shape of a tensor.
        object.__setattr__(self, "shape", tuple(operator.index(size) for size in self.shape))
        rank = len(self.shape)
        if self.layout == "sequence" and rank != 2:
            raise ValueError(f"a sequence latent has shape (L, D), not {self.shape}")
        if self.layout == "grid" and rank < 2:
            raise ValueError(f"a grid latent has shape (C, *sizes), not {self.shape}")

    @property
    def size(self) -> int:
        """Numbers in one latent."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    def __str__(self) -> str:
        return f"{self.layout} {'x'.join(map(str, self.shape))}"


@dataclass
class Latent:
    """A batch of encoded items, the only currency between modalities and the engine.

    mean: (B, *shape), floating point, about zero mean and unit variance over the data.
    std:  the same shape, or None. Where given, `sample` draws from N(mean, std^2), so that a cached latent of
          a stochastic codec is still sampled afresh.
    mask: bool, True where the value is real. (B, L) for a sequence; (B, 1, *sizes) for a grid. None: all real.
    observed: what the items look like before any codec, (B, ...), for a contrast that sees them; usually None.
    conditions: latents of what the network is given beside the state of the flow, by name; none but of a source whose
          task has conditions.
    start: of a target that a flow ended at, where that flow began, (B, *shape); None: training begins at what the
          source encoder makes of the source.
    """

    mean: Tensor
    std: Tensor | None = None
    mask: Tensor | None = None
    observed: Tensor | None = None
    conditions: Mapping[str, Latent] = field(default_factory=dict)
    start: Tensor | None = None

    def sample(self, generator: Randomness = None) -> Tensor:
        """A draw of shape (B, *shape); the mean itself where there is no std."""
        if self.std is None:
            return self.mean
        return self.mean + self.std * normal(self.mean.shape, generator, self.mean)

    def to(self, device: torch.device | str) -> Latent:
        """The same latent on another device."""
        return replace(
            self,
            mean=self.mean.to(device),
            std=None if self.std is None else self.std.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            observed=None if self.observed is None else self.observed.to(device),
            conditions={name: own.to(device) for name, own in self.conditions.items()},
            start=None if self.start is None else self.start.to(device),
        )

    def rows(self, index: Tensor | slice) -> Latent:
        """The chosen rows of the batch."""
        return Latent(
            self.mean[index],
            None if self.std is None else self.std[index],
            None if self.mask is None else self.mask[index],
            None if self.observed is None else self.observed[index],
            {name: own.rows(index) for name, own in self.conditions.items()},
            None if self.start is None else self.start[index],
        )

    def parts(self, place: str) -> dict[str, Latent]:
        """This latent at a place, and those of its conditions at PLACE.conditions.NAME."""
        return {place: self, **{f"{place}.conditions.{name}": own for name, own in self.conditions.items()}}

    def __len__(self) -> int:
        return self.mean.shape[0]


class Modality(nn.Module, ABC):
    """Base class of a modality. Subclasses set the class attributes and write the abstract methods.

    A modality is built from its options alone: `MyModality(MyModality.Options(...))`.
    """

    api_version: ClassVar[int] = API_VERSION
    """Version of this contract that the plugin was written for."""
    summary: ClassVar[str] = ""
    """One line for `plugins info`."""
    Options: ClassVar[type[Settings]] = Settings
    """Pydantic model of the options; every option has a default."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Lower-case file endings that `read` takes, such as ('.png', '.jpg'); `run` searches folders for them."""
    writes: ClassVar[str] = ""
    """File ending of what `write` makes by default, such as '.png'."""
    reading: ClassVar[int] = 0
    """Version of what `read` makes of files: raised when it makes other items of the same ones than before, so that
    latents that were cached of them are made anew."""
    textual: ClassVar[bool] = False
    """True where an item is a line of text: `run` then takes words and lines as input and prints results."""

    column: ClassVar[str] = ""
    """Column of a data set that usually holds its items, such as 'image'."""
    fit_options: ClassVar[Mapping[str, Any]] = {}
    """Options under which there is a codec to fit; `bridgeflow fit` starts from them."""
    most_fitted: int = 4096
    """Items that training offers to `fit` at most; an attribute, or a property where it depends on the options."""
    round_trip: ClassVar[float | None] = None
    """Greatest root mean square difference, in the latent's own units, between the latent of an item and what comes of
    decoding and encoding it again; None for a modality that is only ever a source. A property where it depends on the
    options."""
    waived: ClassVar[Mapping[str, str]] = {}
    """Checks of `bridgeflow plugins check` that do not suit this modality, by name, each with the reason."""

    def __init__(self, options: Settings) -> None:
        super().__init__()
        self.options = options

    @property
    @abstractmethod
    def latent(self) -> LatentSpec:
        """Shape and layout of what `encode` makes. Known without reading data, but for a codec that needs fitting."""

    @property
    def piece_latent(self) -> LatentSpec:
        """What `encode` makes of the pieces that a task cuts large items into when it runs; `latent`, unless those are
        larger than what it trains on. Then the flow starts from them directly, and the network takes any size."""
        return self.latent

    @property
    def conditions(self) -> Mapping[str, Modality]:
        """Modalities of what else its items hold, by name; none but of a source whose task has conditions."""
        return {}

    def parts(self, place: str) -> dict[str, Modality]:
        """The modalities that it is made of, by the key of a recipe's section for each, where its own is `place`:
        itself, but for a source whose task has conditions."""
        return {place: self}

    def batch_key(self, item: Item) -> Hashable:
        """Pieces of items go into one batch where this is the same; by default all do."""
        return None

    @abstractmethod
    def read(self, value: Any) -> Item:
        """An item from a path (`str`, `Path`), from encoded bytes, or from a value as datasets give it.

        Raises BridgeflowError, naming the file, where it cannot be read.
        """

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """A batch of tensors, each with the batch as its first axis. Resizing, cropping and tokenizing happen here."""

    @abstractmethod
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """The latent of a batch that `collate` made; called without gradients."""

    def observed(self, batch: dict[str, Tensor]) -> Tensor | None:
        """What a batch looks like before the codec, (B, ...), such as pixels in [-1, 1]; None where the latent is
        all there is to see."""
        return None

    def advise(self, items: Iterable[Item], side: str) -> list[str]:
        """Sentences on what these options lose of items that all can be read, such as words that are cut or numbers
        that are clipped, each with what to set instead; none by default.

        items: the first of the data, before training and in `data check`, or what `run` was given; one by one, or none
        at all. side: 'source', 'target' or 'source.conditions.NAME', the section of a recipe where the options are set.
        """
        return []

    def in_place(self, item: Item, plus: Sequence[Item], minus: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """What is added to an item and taken from it, as it stands in it, for modalities whose latents have a place for
        each part (a word's in its line); as it is by default."""
        return list(plus), list(minus)

    def entries(self, place: int) -> Tensor | None:
        """All features (V, D) that the latent may have at a place of its sequence, for modalities with finitely many
        of them: a source is then read back as those that are nearest. None for any other."""
        return None

    def from_entries(self, numbers: Sequence[Sequence[int]]) -> list[Item]:
        """Items of the entries at each place, by their numbers; -1 is nothing, as at padding."""
        raise NotImplementedError

    def mean_and_spread(self, items: Sequence[Item]) -> tuple[Item, NDArray[np.float32]] | None:
        """The mean of several items of one size, and their standard deviation at each place of it (H, W), in the item's
        units (exactly 0 where they are equal), for modalities whose items are maps of numbers. None for any other."""
        return None

    def unload(self) -> None:
        """Frees weights that are read again when they are next needed; nothing where there are none."""

    def decode(self, latent: Tensor) -> list[Item]:
        """Items from latents (B, *shape). A modality that is only ever a source need not have it.

        Raises BridgeflowError, naming the shape expected, where the latents have another.
        """
        raise BridgeflowError(f"the modality {type(self).__name__} cannot be a target: it does not decode.")

    def write(self, item: Item, path: Path) -> list[Path]:
        """Writes the item at `path` (the ending chooses the format) and returns every file written."""
        raise BridgeflowError(f"the modality {type(self).__name__} does not write files.")

    @abstractmethod
    def preview(self, item: Item) -> Image:
        """The item as an RGB picture for people to look at."""

    def previews(self, item: Item) -> dict[str, Image]:
        """Pictures of all that a source item holds, by name: one, but where the task has conditions."""
        return {"source": self.preview(item)}

    # -- made-up items, for checks, dry runs and first steps ---------------------------------------------

    def example(self, rng: np.random.Generator) -> Item:
        """A made-up item such as `read` gives, another one at each call. The checks and codecs that need fitting
        for them take their items from here."""
        raise BridgeflowError(f"the modality {type(self).__name__} makes up no items: write its method `example`.")

    def extremes(self) -> Mapping[str, Item]:
        """Items at the edges of what `read` may give: 'minimum', 'maximum', 'constant' and 'odd' (of a size that no
        patch or block divides), and whatever else its author knows to be delicate."""
        raise BridgeflowError(f"the modality {type(self).__name__} names no edges: write its method `extremes`.")

    # -- codecs that are fitted to data ------------------------------------------------------------------

    @property
    def needs_fit(self) -> bool:
        """True while the codec has to be fitted before it can encode."""
        return False

    def fit(self, items: Iterable[Item], progress: Progress | None = None) -> dict[str, float]:
        """Fits the codec to items and returns figures of how well it reconstructs them."""
        raise BridgeflowError(f"the modality {type(self).__name__} has nothing to fit.")

    def fitted_state(self) -> dict[str, Tensor]:
        """Tensors that fitting made and that a checkpoint must hold; empty where there are none."""
        return {}

    def fitted_facts(self) -> dict[str, Any]:
        """JSON values that fitting made (a vocabulary, a scale); empty where there are none."""
        return {}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes back what `fitted_state` and `fitted_facts` gave; after it `needs_fit` is False."""
        if state or facts:
            raise BridgeflowError(f"the modality {type(self).__name__} has no fitted state to restore.")

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the encoding would: class, options and fitted state."""
        digest = hashlib.sha256()
        digest.update(f"{type(self).__module__}.{type(self).__qualname__}".encode())
        digest.update(self.options.model_dump_json().encode())
        digest.update(json.dumps(self.fitted_facts(), sort_keys=True).encode())
        for name, tensor in sorted(self.fitted_state().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
