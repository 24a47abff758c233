"""Modalities that are at fault in one place each: the way out, and what must not change."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

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


@spoils("wrong rank", "without saying what it expects (not such latents: (3, 3))")
class NamesShapeGiven(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        if latent.shape[1:] != self.latent.shape:
            raise BridgeflowError(f"not such latents: {tuple(latent.shape)}.")
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


@spoils("files", "`read` failed on the path as a string of the file 'item.npy' that `write` wrote (TypeError")
class ReadsNoString(Fine):
    def read(self, value: Any) -> Numbers:
        if isinstance(value, str):
            raise TypeError("a path is no string")
        return super().read(value)


@spoils("files", "`read` failed on the bytes of the file 'item.npy' that `write` wrote (bytes are not taken)")
class ReadsNoBytes(Fine):
    def read(self, value: Any) -> Numbers:
        if isinstance(value, bytes):
            raise BridgeflowError("bytes are not taken.")
        return super().read(value)


@spoils("files", "by the bytes of its file, encodes")
class ReadsBytesOtherwise(Fine):
    def read(self, value: Any) -> Numbers:
        return super().read(value) * np.float32(0.5 if isinstance(value, bytes) else 1)


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
        return np.load(value) if isinstance(value, Path) and not value.exists() else super().read(value)


@spoils("unreadable files", "without naming it")
class NamesNoFile(Fine):
    def read(self, value: Any) -> Numbers:
        try:
            return super().read(value)
        except BridgeflowError as error:
            raise BridgeflowError("cannot read that: give another.") from error


@spoils("unreadable files", "without naming it (the file is missing)")
class SaysMissing(Fine):
    def read(self, value: Any) -> Numbers:
        if isinstance(value, Path) and not value.exists():
            raise BridgeflowError("the file is missing.")
        return super().read(value)


@spoils("unreadable files", "without naming it (the file is damaged)")
class SaysDamaged(Fine):
    def read(self, value: Any) -> Numbers:
        try:
            return super().read(value)
        except BridgeflowError as error:
            if isinstance(value, Path) and not value.exists():
                raise
            raise BridgeflowError("the file is damaged.") from error


@spoils("unreadable files", "meets damaged bytes with ValueError")
class StumblesOnBytes(Fine):
    def read(self, value: Any) -> Numbers:
        return np.load(io.BytesIO(value)) if isinstance(value, bytes) else super().read(value)


@spoils("unreadable files", "the missing file 'qj7x.npy', which does not exist")
class MakesUpMissing(Fine):
    def read(self, value: Any) -> Numbers:
        return np.zeros(3) if isinstance(value, Path) and not value.exists() else super().read(value)


@spoils("unreadable files", "the string 'qj7x.npy', a missing file with FileNotFoundError")
class SourceWithoutStrings(Fine):
    round_trip = None
    decode = Modality.decode
    write = Modality.write

    def read(self, value: Any) -> Numbers:
        return np.load(value) if isinstance(value, str) else super().read(value)


@spoils("preview", "an image of mode L")
class GreyPreview(Fine):
    def preview(self, item: Numbers) -> Image.Image:
        return super().preview(item).convert("L")


# -- keeping ----------------------------------------------------------------------------------------------------


@spoils("state", "a fresh copy gives other latents")
class ForgetsCentre(Fine):
    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.count = facts["count"]


@spoils("stdout", "`encode` prints 'encoding 4 items' on stdout, where results go: log it, or print it to sys.stderr.")
class PrintsEncoding(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        print(f"encoding {len(batch['values'])} items")
        return super().encode(batch)


@spoils("stdout", "`read` prints 'below Python'")
class WritesBelow(Fine):
    def read(self, value: Any) -> Numbers:
        os.write(1, b"\nbelow Python\n")
        return super().read(value)


@spoils("stdout", "`decode` prints 'in a process'")
class StartsAProcess(Fine):
    def decode(self, latent: Tensor) -> list[Numbers]:
        subprocess.run(["echo", "in a process"], check=True)
        return super().decode(latent)


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
        return f"{self.count:016x}"


@spoils("state", "still needs fitting after `restore`")
class StaysUnfitted(Fine):
    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.centre.copy_(state["centre"])


@spoils("state", "restored in a fresh process, it still needs fitting: keep nothing on the class")
class FittedClass(Fine):
    mean: ClassVar[float | None] = None

    @property
    def needs_fit(self) -> bool:
        return self.mean is None

    def fit(self, items: Any, progress: Any = None) -> dict[str, float]:
        type(self).mean = float(np.concatenate(list(items)).mean())
        return {"mean": 0.0}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean + (self.mean or 0.0), mask=latent.mask)

    def decode(self, latent: Tensor) -> list[Numbers]:
        return super().decode(latent - (self.mean or 0.0))


@spoils("state", "restored in a fresh process, it gives other latents")
class FittedModule(Fine):
    def fit(self, items: Any, progress: Any = None) -> dict[str, float]:
        figures = super().fit(items, progress)
        LEFT["centre"] = self.centre
        return figures

    def fitted_state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        super().restore({"centre": torch.zeros(()), **LEFT}, facts)


LEFT: dict[str, Tensor] = {}


@spoils("state", "restored in a fresh process, it fails in `restore` (KeyError")
class NeedsTheFirst(Fine):
    def fit(self, items: Any, progress: Any = None) -> dict[str, float]:
        LEFT["first"] = torch.zeros(())
        return super().fit(items, progress)

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        super().restore({"centre": state["centre"] + LEFT["first"]}, facts)


@spoils("state", "restored in a fresh process, it fails in `__init__` (it ended the process)")
class EndsOtherProcesses(Fine):
    def __init__(self, options: FineOptions) -> None:
        super().__init__(options)
        if "pytest" not in sys.modules:
            os._exit(0)


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


@spoils("frozen", "the parameter 'signs' asks for gradients, though nothing but `fit`")
class AsksForGradients(Trainable):
    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        return super().encode(batch)


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


@spoils("fingerprint", "the same before and after fitting")
class OneFingerprint(Fine):
    def fingerprint(self) -> str:
        return "0" * 16


@spoils("fingerprint", "stays the same under another `size`")
class FingerprintWithoutOptions(Fine):
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.count} {float(self.centre)}".encode()).hexdigest()[:16]


@spoils("fingerprint", "give 16 hexadecimal digits")
class NamedFingerprint(Fine):
    def fingerprint(self) -> str:
        return f"fine {self.options.size} {self.options.gain}"


@spoils("fingerprint", "another answer for a copy with the same options and state")
class FingerprintOfTheObject(Fine):
    def fingerprint(self) -> str:
        return f"{id(self):016x}"


@spoils("fingerprint", "another answer in a fresh process: let it depend")
class SaltedFingerprint(Fine):
    def fingerprint(self) -> str:
        return f"{hash(super().fingerprint()) % 16**16:016x}"


@spoils("fingerprint", "the same before and after fitting")
class UnfittedFingerprint(Fine):
    def fingerprint(self) -> str:
        return hashlib.sha256(self.options.model_dump_json().encode()).hexdigest()[:16]


@spoils("fingerprint", "stays the same under another fitted state")
class FingerprintOfFacts(Fine):
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.options.model_dump_json()} {self.count}".encode()).hexdigest()[:16]


@spoils("fingerprint", "stays the same under another `fitted_facts`")
class FingerprintOfState(Fine):
    def fitted_state(self) -> dict[str, Tensor]:
        return {"fitted": torch.ones(())} if self.count else {}

    def fitted_facts(self) -> dict[str, Any]:
        return {"count": self.count, "centre": float(self.centre)} if self.count else {}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        super().restore({"centre": torch.tensor(facts["centre"])}, facts)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.options.model_dump_json()} {self.fitted_state()}".encode()).hexdigest()[:16]
