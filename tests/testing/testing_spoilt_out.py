"""Modalities that are at fault in one place each: the way out, and what must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from testing_fine import Fine, FineOptions, Numbers, Spoilt
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, Modality

SPOILT = Spoilt()
spoils = SPOILT.by


# -- decoding and files -----------------------------------------------------------------------------------------


@spoils("round trip", "and `round_trip` states 1e-05")
class DecodesWrongly(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        return [item + np.float32(0.1) for item in super().decode(latent)]


@spoils("round trip", "states no `round_trip`")
class SaysNoRoundTrip(Fine):
    round_trip = None


@spoils("round trip", "`decode` gave 3 items for 4 latents")
class LosesOne(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        return super().decode(latent)[: 3 if len(latent) == 4 else None]


@spoils("wrong rank", "without a word: raise BridgeflowError that names (B, 8, 2)")
class TakesAnyRank(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        return super().decode(latent) if latent.ndim == 3 else [np.zeros(8, np.float32)]


@spoils("wrong rank", "with RuntimeError")
class StumblesOnRank(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        latent.reshape(len(latent), 8, 2)
        return super().decode(latent)


@spoils("wrong rank", "without saying what it expects (the latent is wrong)")
class SaysNoShape(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        if latent.ndim != 3:
            raise BridgeflowError("the latent is wrong.")
        return super().decode(latent)


@spoils("files", "encodes 0.0")
class LossyFiles(Fine):
    def write(self, item: Numbers, path: Path) -> list[Path]:
        return super().write(np.round(item, 1), path)


@spoils("files", "whose ending `reads` does not have")
class UnreadableEnding(Fine):
    writes = ".csv"

    def write(self, item: Numbers, path: Path) -> list[Path]:
        path.write_text("1,2,3")
        return [path]


@spoils("files", "which is not there: return what was written")
class NamesAnother(Fine):
    def write(self, item: Numbers, path: Path) -> list[Path]:
        super().write(item, path)
        return [path.with_suffix(".npz")]


@spoils("files", "refuse an ending that it does not write")
class WritesElsewhere(Fine):
    def write(self, item: Numbers, path: Path) -> list[Path]:
        np.save(path, item)
        return [path]


@spoils("files", "write its method `write`")
class WritesNothing(Fine):
    write = Modality.write


@spoils("unreadable files", "with FileNotFoundError")
class RaisesBare(Fine):
    def read(self, value: Any) -> Numbers:
        return super().read(value) if isinstance(value, np.ndarray) or Path(value).exists() else np.load(value)


@spoils("unreadable files", "without naming it")
class NamesNoFile(Fine):
    def read(self, value: Any) -> Numbers:
        try:
            return super().read(value)
        except BridgeflowError as error:
            raise BridgeflowError("cannot read that: give another.") from error


@spoils("unreadable files", "'missing.npy', which does not exist")
class MakesUpMissing(Fine):
    def read(self, value: Any) -> Numbers:
        return super().read(value) if isinstance(value, np.ndarray) or Path(value).exists() else np.zeros(3)


@spoils("preview", "an image of mode L")
class GreyPreview(Fine):
    def preview(self, item: Numbers) -> Image.Image:
        return super().preview(item).convert("L")


# -- keeping ----------------------------------------------------------------------------------------------------


@spoils("state", "a fresh copy gives other latents")
class ForgetsCentre(Fine):
    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.count = facts["count"]


@spoils("state", "a fresh copy gives other latents")
class DrawnWeights(Fine):
    def __init__(self, options: FineOptions) -> None:
        super().__init__(options)
        self.drawn = 0.1 * float(torch.rand(()))

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean + self.drawn, mask=latent.mask)

    def decode(self, latent: Tensor) -> list[Numbers]:
        return super().decode(latent - self.drawn)


@spoils("state", "`fitted_facts` is not JSON")
class FactsNotJson(Fine):
    def fitted_facts(self) -> dict[str, Any]:
        return {"count": np.int64(self.count)}

    def fingerprint(self) -> str:
        return f"{hash((self.options.size, self.options.gain, self.count)) % 16**16:016x}"


@spoils("state", "still needs fitting after `restore`")
class StaysUnfitted(Fine):
    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.centre.copy_(state["centre"])


@spoils("pickle", "the modality cannot be pickled")
class KeepsLambda(Fine):
    def __init__(self, options: FineOptions) -> None:
        super().__init__(options)
        self.scale = lambda value: value * options.gain


@spoils("pickle", "a pickled copy gives other latents")
class ForgetsInPickle(Fine):
    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_buffers"] = {"centre": torch.zeros(())}
        return state


@spoils("bfloat16", "`decode` failed on a bfloat16 latent (TypeError")
class NumpyOfBfloat16(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        latent.numpy()
        return super().decode(latent)


@spoils("bfloat16", "under bfloat16 autocast the latent is")
class LosesPrecision(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        far = (latent.mean + 300) @ torch.eye(2)
        return Latent(far.float() - 300, mask=latent.mask)

    round_trip = 1e-3


@spoils("frozen", "the parameter 'signs' got a gradient")
class Trainable(Fine):
    def __init__(self, options: FineOptions) -> None:
        super().__init__(options)
        self.signs.requires_grad_(True)


@spoils("frozen", "not under torch.inference_mode")
class InferenceMode(Fine):
    @torch.inference_mode()
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        return super().encode(batch)


@spoils("frozen", "the tensor 'norm.num_batches_tracked' changed while encoding")
class RunningStatistics(Fine):
    def __init__(self, options: FineOptions) -> None:
        super().__init__(options)
        self.norm = nn.BatchNorm1d(options.size, affine=False, momentum=0.0)

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        if len(batch["values"]) > 1:
            self.norm(batch["values"])
        return super().encode(batch)


@spoils("fingerprint", "stays the same under another `size`")
class OneFingerprint(Fine):
    def fingerprint(self) -> str:
        return "0" * 16


@spoils("fingerprint", "give 16 hexadecimal digits")
class NamedFingerprint(Fine):
    def fingerprint(self) -> str:
        return f"fine {self.options.size} {self.options.gain}"
