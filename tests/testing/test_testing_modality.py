"""Every check of a modality, tried on one that breaks it; the reports name the fault and the fix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import testing_spoilt_in
import testing_spoilt_out
from testing_fine import Fine, FineOptions, Numbers
from testing_spoilt_in import DrawsDecoding
from testing_spoilt_out import NumpyOfBfloat16
from torch import Tensor

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import LatentSpec, Modality
from bridgeflow.testing import Outcome, check_modality, modality_checks
from bridgeflow.testing.outcome import reached

SPOILT = {**testing_spoilt_in.SPOILT, **testing_spoilt_out.SPOILT}


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
    assert re.search(r"[:,] ", sentence), "a fault and a fix"
    for outcome in outcomes:
        if not reached(outcome):
            assert repr(check) in outcome.message


def test_every_check_but_two_of_installed_plugins_has_a_modality_that_breaks_it() -> None:
    broken = {check for check, _ in SPOILT.values()}
    assert broken == {check.name for check in modality_checks()} - {"listing", "import"}


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


def test_a_class_that_another_process_cannot_import_is_not_tried_in_one() -> None:
    class Local(Fine):
        pass

    outcomes = {outcome.check.name: outcome for outcome in check_modality(Local)}
    assert (outcomes["state"].status, outcomes["fingerprint"].status) == ("passed", "passed")
    assert "not tried in a fresh process" in outcomes["state"].message
    assert "cannot be pickled" in outcomes["pickle"].message


def test_a_method_that_takes_paths_alone_fails_for_files_and_for_damaged_bytes() -> None:
    class PathsAlone(Fine):
        def read(self, value: Any) -> Numbers:
            if isinstance(value, str | bytes):
                raise TypeError("a path is wanted")
            return super().read(value)

    found = failing(check_modality(PathsAlone))
    assert found["unreadable files"].startswith("`read` meets damaged bytes with TypeError: a path is wanted: raise")
    assert "`read` failed on the path as a string of the file 'item.npy'" in found["files"]


def test_a_shape_that_is_a_list_is_a_shape() -> None:
    spec = LatentSpec([8, np.int64(2)], "sequence")  # type: ignore[arg-type, list-item]
    assert spec == LatentSpec((8, 2), "sequence")
    assert isinstance(spec.shape, tuple)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        LatentSpec((8, 2.5), "sequence")  # type: ignore[arg-type]

    class Listed(Fine):
        latent = property(lambda self: LatentSpec([self.options.size, 2], "sequence"))  # type: ignore[assignment, arg-type, list-item]

    assert failing(check_modality(Listed)).keys() == {"pickle"}, "a class in a function cannot be pickled"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no modality 'dept'\. Did you mean 'depth'\?"):
        check_modality("dept")


def test_the_traceback_behind_a_fault_is_kept() -> None:
    (outcome,) = [o for o in check_modality(NumpyOfBfloat16) if o.status == "failed"]
    assert "Traceback" not in outcome.message
    assert outcome.trace.startswith("Traceback")
    assert "latent.numpy()" in outcome.trace
