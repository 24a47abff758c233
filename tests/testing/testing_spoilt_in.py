"""Modalities that are at fault in one place each: what they declare, and the way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ConfigDict, field_serializer
from testing_fine import Fine, FineOptions, Numbers, Spoilt
from torch import Tensor

from bridgeflow.modality import Latent, LatentSpec, Modality

SPOILT = Spoilt()
spoils = SPOILT.by


# -- declarations ---------------------------------------------------------------------------------------------


@spoils("contract", "version 2 of the contract")
class OtherContract(Fine):
    api_version = 2


@spoils("contract", "inherit from it")
class NoModality:
    api_version = 1


@spoils("contract", "`summary` says nothing")
class NoSummary(Fine):
    summary = ""


@spoils("waivers", "names 'mask', which is no check")
class WaivesNothing(Fine):
    waived = {"mask": "it has none"}


@spoils("waivers", "waiver of 'masks' gives no reason")
class WaivesWithoutReason(Fine):
    waived = {"masks": " "}


class Needy(FineOptions):
    kernel: str


@spoils("options", "'kernel' has no default: give it one")
class NeedyOptions(Fine):
    Options = Needy


class Loose(FineOptions):
    model_config = ConfigDict(extra="ignore")


@spoils("options", "takes the unknown key")
class LooseOptions(Fine):
    Options = Loose


class Nested(FineOptions):
    inner: Loose = Loose()


@spoils("options", "`inner` takes the unknown key")
class LooseInside(Fine):
    Options = Nested


class Rounded(FineOptions):
    power: float = 0.125

    @field_serializer("power")
    def _write(self, power: float) -> float:
        return round(power, 1)


@spoils("options", "'power' comes back from JSON as another value")
class RoundedOptions(Fine):
    Options = Rounded


class Changeable(FineOptions):
    model_config = ConfigDict(frozen=False)


@spoils("options", "can be changed after it is made")
class ChangeableOptions(Fine):
    Options = Changeable


# -- construction, examples, fitting ----------------------------------------------------------------------------


@spoils("construction", "`__init__` failed")
class WantsMore(Fine):
    def __init__(self, options: FineOptions) -> None:
        raise FileNotFoundError("/opt/weights.bin")


@spoils("construction", "lacks the method `preview`")
class Unfinished(Modality):
    summary = "half of it"
    read = Fine.read
    collate = Fine.collate
    encode = Fine.encode
    latent = Fine.latent


@spoils("construction", "`options` are not those")
class OwnOptions(Fine):
    def __init__(self, options: FineOptions) -> None:
        super().__init__(FineOptions(size=options.size, gain=1.0))


@spoils("examples", "`example` gave two items for one seed")
class GlobalExample(Fine):
    def example(self, rng: np.random.Generator) -> Numbers:
        return np.random.default_rng().uniform(0.1, 0.9, 4).astype(np.float32)


@spoils("examples", "the same item for every seed")
class OneExample(Fine):
    def example(self, rng: np.random.Generator) -> Numbers:
        return np.linspace(0.2, 0.8, 5, dtype=np.float32)


@spoils("examples", "makes up no items: write its method `example`")
class NoExample(Fine):
    example = Modality.example


@spoils("fitting", "`needs_fit` is still True")
class NeverFitted(Fine):
    @property
    def needs_fit(self) -> bool:
        return True


@spoils("fitting", "no finite number as its figure 'std'")
class NoFigure(Fine):
    def fit(self, items: Any, progress: Any = None) -> dict[str, float]:
        super().fit(items, progress)
        return {"std": float("nan")}


@spoils("fitting", "`fit` failed on 128 made-up items (TypeError")
class CountsItems(Fine):
    def fit(self, items: Any, progress: Any = None) -> dict[str, float]:
        return super().fit(items[:100], progress)


# -- encoding -------------------------------------------------------------------------------------------------


@spoils("collate", "make the batch its first axis")
class BatchLast(Fine):
    def collate(self, items: Sequence[Numbers]) -> dict[str, Tensor]:
        return {name: tensor.T for name, tensor in super().collate(items).items()}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        return super().encode({name: tensor.T for name, tensor in batch.items()})


@spoils("collate", "tensors by name")
class BatchOfLists(Fine):
    def collate(self, items: Sequence[Numbers]) -> dict[str, Any]:
        return {"values": [list(item) for item in items]}


@spoils("declared latent", r"gave (B, 8, 2), but `latent` declares sequence 8x3")
class WrongShape(Fine):
    @property
    def latent(self) -> LatentSpec:
        return LatentSpec((8, 3), "sequence")


@spoils("declared latent", "gave int64, which no flow can follow")
class WholeNumbers(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent((100 * latent.mean).long(), mask=latent.mask)


@spoils("declared latent", "infinite or undefined numbers")
class Undefined(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean.log(), mask=latent.mask)


@spoils("declared latent", "`encode` gave a Tensor")
class PlainTensor(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Any:
        return super().encode(batch).mean


@spoils("declared latent", "a `std` below zero")
class NegativeSpread(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean, -torch.ones_like(latent.mean), latent.mask)


@spoils("declared latent", "gave 3 latents for 4 items")
class LosesARow(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return latent.rows(slice(0, 3)) if len(latent) == 4 else latent


@spoils("distinct items", "the same latent for 4 different items")
class OneLatent(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        return Latent(0.5 * self.signs.expand(len(batch["values"]), self.options.size, 2))


class Scaled(Fine):
    """The latent of the fine one by a factor, and moved."""

    by, shift = 1.0, 0.0
    round_trip = 1.0

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean * self.by + self.shift, mask=latent.mask)

    def decode(self, latent: Tensor) -> list[Numbers]:
        return super().decode((latent.float() - self.shift) / self.by)


@spoils("scale", "where about 0 and 1 are expected, and the loss follows their scale: subtract a constant and divide")
class TooLarge(Scaled):
    by = 1000.0


@spoils("scale", "have mean 0 and standard deviation 0.0")
class TooSmall(Scaled):
    by = 0.01


@spoils("scale", "have mean 7")
class OffCentre(Scaled):
    shift = 7.0


@spoils("rows of a batch", "differs from its row in a batch of 4")
class BatchMean(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        # Of batches of four alone, so that no other check comes upon it.
        shift = latent.mean[..., :1].mean() if len(latent) == 4 else 0.0
        return Latent(latent.mean + 0.1 + shift, mask=latent.mask)


@spoils("deterministic", "`decode` gave two results")
class DrawsDecoding(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        return super().decode(latent + 1e-6 * torch.randn_like(latent.float()))


@spoils("deterministic", "`collate` gave two batches")
class DrawsCollating(Fine):
    def collate(self, items: Sequence[Numbers]) -> dict[str, Tensor]:
        return {**super().collate(items), "augmented": torch.rand(len(items))}


@spoils("deterministic", "`encode` gave two latents")
class DrawsEncoding(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean + 9e-6 * torch.rand(()), mask=latent.mask)


@spoils("inputs untouched", "`collate` changed the items")
class ChangesItems(Fine):
    def collate(self, items: Sequence[Numbers]) -> dict[str, Tensor]:
        for item in items:
            np.round(item, 2, out=item)
        return super().collate(items)


@spoils("inputs untouched", "`encode` changed the batch")
class ChangesBatch(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        batch["values"].clamp_(max=0.5)
        return super().encode(batch)


@spoils("inputs untouched", "`decode` changed the latent")
class ChangesLatent(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        items = super().decode(latent)
        latent.add_(1e-7)
        return items


@spoils("inputs untouched", "`preview` changed the item it was given")
class ClearsShown(Fine):
    def preview(self, item: Numbers) -> Image.Image:
        picture = super().preview(item)
        item *= 0
        return picture


@spoils("inputs untouched", "`write` changed the item it was given")
class ClearsWritten(Fine):
    def write(self, item: Numbers, path: Path) -> list[Path]:
        written = super().write(item, path)
        item *= 0
        return written


@spoils("inputs untouched", "`collate` changed the items")
class ClearsItems(Fine):
    def collate(self, items: Sequence[Numbers]) -> dict[str, Tensor]:
        batch = super().collate(items)
        for item in items:
            item *= 0
        return batch


@spoils("edges", "the latent of the edge 'maximum' is not finite")
class LogOfNothing(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean + 0 * torch.log1p(-batch["values"])[..., None], mask=latent.mask)


@spoils("edges", "lacks 'maximum'")
class NoMaximum(Fine):
    def extremes(self) -> Mapping[str, Numbers]:
        return {name: item for name, item in super().extremes().items() if name != "maximum"}


@spoils("odd sizes", "does not say what would work")
class OddRefused(Fine):
    def collate(self, items: Sequence[Numbers]) -> dict[str, Tensor]:
        if any(len(item) == 13 for item in items):
            raise RuntimeError("shape '[-1, 4]' is invalid")
        return super().collate(items)


@spoils("odd sizes", "not the shape of other items")
class OddGrows(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(torch.cat([latent.mean] * 2, 1)) if "odd" in batch else latent

    def collate(self, items: Sequence[Numbers]) -> dict[str, Tensor]:
        odd = {"odd": torch.ones(len(items))} if any(len(item) == 13 for item in items) else {}
        return {**super().collate(items), **odd}


@spoils("masks", "a mask of float32: give bool")
class FloatMask(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean, mask=batch["real"].float())


@spoils("masks", "give (B, 8) for a latent sequence 8x2")
class WideMask(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean, mask=batch["real"][..., None].expand(-1, -1, 2))


@spoils("masks", "a mask of shape (1, 8): give (B, 8)")
class OneMask(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean, mask=torch.ones(1, self.options.size, dtype=torch.bool))


@spoils("masks", "is False everywhere")
class NothingReal(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean, mask=batch["real"] & (batch["real"].sum(1) > 4)[:, None])


@spoils("masks", "for some batches and none for others")
class MaskAtTimes(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean, mask=None if batch["real"].all() else batch["real"])


@spoils("masks", "real values change by")
class LeakingPadding(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        # Only the longest edge is this long, so that no other check comes upon it.
        return Latent(
            latent.mean + 0.1 * float(batch["real"].all(1).any() and not batch["real"].all()), mask=latent.mask
        )
