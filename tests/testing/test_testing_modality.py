"""Every check of a modality, tried on one that breaks it; the reports name the fault and the mend."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ConfigDict, Field, field_serializer
from testing_fine import Fine, FineOptions, Numbers
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.settings import Settings
from bridgeflow.testing import Outcome, check_modality, modality_checks
from bridgeflow.testing.outcome import reached

SPOILT: dict[type[Any], tuple[str, str]] = {}
"""Each class with the one check that finds it, and words of the sentence."""


def spoils(check: str, words: str) -> Any:
    """Notes which check has to find a class at fault."""

    def note(kind: type[Any]) -> type[Any]:
        SPOILT[kind] = (check, words)
        return kind

    return note


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


@spoils("masks", "the mask is float32: give bool")
class FloatMask(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean, mask=batch["real"].float())


@spoils("masks", "give (B, 8) for a latent sequence 8x2")
class WideMask(Fine):
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        latent = super().encode(batch)
        return Latent(latent.mean, mask=batch["real"][..., None].expand(-1, -1, 2))


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


# -- the tests ----------------------------------------------------------------------------------------------------


def failing(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """The sentence of each check that failed of itself."""
    return {o.check.name: o.message for o in outcomes if o.status == "failed" and reached(o)}


def test_a_modality_without_a_fault_passes_every_check() -> None:
    outcomes = check_modality(Fine)
    assert failing(outcomes) == {}
    assert [outcome.check for outcome in outcomes] == list(modality_checks())
    assert {outcome.status for outcome in outcomes} == {"passed"}
    notes = {outcome.check.name: outcome.message for outcome in outcomes}
    assert notes["declared latent"] == "sequence 8x2, float32"
    assert notes["fingerprint"] == "2 other options tried"


@pytest.mark.parametrize("kind", SPOILT, ids=lambda kind: kind.__name__)
def test_one_fault_is_found_by_its_check_alone_and_said_in_one_sentence(kind: type[Any]) -> None:
    check, words = SPOILT[kind]
    outcomes = check_modality(kind)
    found = failing(outcomes)
    assert list(found) == [check], found
    sentence = found[check]
    assert words in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert re.search(r"[:,] ", sentence), "a fault and a mend"
    for outcome in outcomes:
        if not reached(outcome):
            assert repr(check) in outcome.message


def test_every_check_but_listing_has_a_modality_that_breaks_it() -> None:
    # Listing is of installed plugins, and tested with those.
    broken = {check for check, _ in SPOILT.values()}
    assert broken == {check.name for check in modality_checks()} - {"listing"}


class Refuses(Fine):
    def collate(self, items: Sequence[Numbers]) -> dict[str, Tensor]:
        for item in items:
            if len(item) == 13:
                raise BridgeflowError(f"{len(item)} numbers do not suit: their number has to be a multiple of 2.")
        return super().collate(items)


def test_an_odd_size_may_be_refused_with_the_size_and_the_multiple() -> None:
    (odd,) = [outcome for outcome in check_modality(Refuses) if outcome.check.name == "odd sizes"]
    assert odd.status == "passed"
    assert "13 numbers" in odd.message


class EvenOptions(Settings):
    size: int = Field(default=8)


class EvenSizes(Fine):
    def __init__(self, options: FineOptions) -> None:
        if options.size % 2:
            raise UsageError("that size is not good.")
        super().__init__(options)


def test_an_odd_option_size_must_be_refused_with_the_multiple_too() -> None:
    assert failing(check_modality(EvenSizes)).keys() == {"odd sizes"}


class Source(Fine):
    round_trip = None
    decode = Modality.decode
    write = Modality.write


def test_checks_of_decoding_do_not_apply_to_a_source() -> None:
    outcomes = {outcome.check.name: outcome for outcome in check_modality(Source)}
    assert {outcome.status for outcome in outcomes.values()} == {"passed"}
    for name in ("round trip", "wrong rank"):
        assert "only ever a source" in outcomes[name].message
    assert "writes no files" in outcomes["files"].message


class Waived(DrawsDecoding):
    waived = {"deterministic": "it dithers on purpose"}


def test_a_waived_check_is_not_tried_and_tells_the_reason() -> None:
    outcomes = check_modality(Waived)
    assert failing(outcomes) == {}
    (outcome,) = [outcome for outcome in outcomes if outcome.status == "waived"]
    assert (outcome.check.name, outcome.message) == ("deterministic", "it dithers on purpose")


class WaivesItself(Fine):
    waived: ClassVar[Mapping[str, str]] = {"waivers": "so there"}


def test_the_check_of_waivers_cannot_be_waived() -> None:
    assert "cannot be waived itself" in failing(check_modality(WaivesItself))["waivers"]


def test_options_are_taken_and_wrong_ones_refused() -> None:
    notes = {outcome.check.name: outcome.message for outcome in check_modality(Fine, {"size": 6})}
    assert notes["declared latent"] == "sequence 6x2, float32"
    with pytest.raises(UsageError, match="size: should be"):
        check_modality(Fine, {"size": "many"})


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no modality 'dept'\. Did you mean 'depth'\?"):
        check_modality("dept")


def test_the_traceback_behind_a_fault_is_kept() -> None:
    (outcome,) = [o for o in check_modality(NumpyOfBfloat16) if o.status == "failed"]
    assert "Traceback" not in outcome.message
    assert outcome.trace.startswith("Traceback")
    assert "latent.numpy()" in outcome.trace
