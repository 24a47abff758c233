"""The checks of a modality, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bridgeflow.modality import Modality
from bridgeflow.testing import declarations, decoding, encoding, keeping, printing
from bridgeflow.testing.modality_subject import ModalitySubject
from bridgeflow.testing.outcome import Check, Outcome, Table, examine

Trial = Callable[[ModalitySubject], str | None]


def _contract(subject: ModalitySubject) -> str | None:
    declarations.check_declared(subject.kind)
    return f"version {subject.kind.api_version}"


def _listing(subject: ModalitySubject) -> str | None:
    return declarations.check_listing(subject.loaded[1])


def _import(subject: ModalitySubject) -> str | None:
    return declarations.check_import(subject.loaded[1])


def _options(subject: ModalitySubject) -> str | None:
    return declarations.check_options(subject.settings)


def _waivers(subject: ModalitySubject) -> str | None:
    return declarations.check_waivers(subject.kind.waived, (check.name for check in modality_checks()))


def _on_latents(tried: Trial) -> Trial:
    """A check that is not reached where the made-up items have no sound latent."""

    def on_latents(subject: ModalitySubject) -> str | None:
        _ = subject.latent
        return tried(subject)

    return on_latents


BEFORE: Table[ModalitySubject] = (
    (Check("contract", "It loads, is a Modality, and is written for this version of the contract."), _contract),
    (Check("waivers", "Every waiver names a check and gives a reason."), _waivers),
    (Check("listing", "Listing the plugins imports neither torch nor the plugin."), _listing),
    (Check("import", "Importing it is quick, prints nothing, and stays in the working folder."), _import),
    (Check("options", "Options have defaults, go through JSON and back, and refuse unknown keys."), _options),
    (Check("construction", "It is built from its options alone, and keeps them."), encoding.check_construction),
    (Check("examples", "`example` draws an item from its generator alone."), encoding.check_examples),
    (Check("unreadable files", "A missing or damaged file is refused by its name."), decoding.check_unreadable),
    (Check("fitting", "A codec that needs fitting is fitted to items one by one."), encoding.check_fitting),
    (Check("collate", "`collate` gives tensors by name, with the batch as first axis."), encoding.check_collate),
)
"""What is tried before there are latents."""

ON_LATENTS: Table[ModalitySubject] = (
    (Check("declared latent", "`encode` gives the shape declared, in floating point."), encoding.check_declared),
    (Check("distinct items", "Items that differ have latents that differ."), encoding.check_distinct),
    (Check("scale", "Latents are of about zero mean and unit variance."), encoding.check_scale),
    (Check("round trip", "A latent, decoded and encoded, is itself within `round_trip`."), decoding.check_round_trip),
    (Check("rows of a batch", "A batch of one equals a row of a batch of four."), encoding.check_rows),
    (Check("deterministic", "The random state changes neither latents nor items."), encoding.check_deterministic),
    (Check("inputs untouched", "Nothing that is handed in is changed."), encoding.check_untouched),
    (Check("edges", "Minimum, maximum and constant items give finite latents."), encoding.check_edges),
    (Check("odd sizes", "Odd sizes work, or the error names the size and the multiple."), encoding.check_odd),
    (Check("masks", "Masks are bool, and padding changes nothing that is real."), encoding.check_masks),
    (Check("preview", "`preview` gives an RGB picture, of edges too."), decoding.check_preview),
    (Check("wrong rank", "`decode` refuses another rank, naming the shape expected."), decoding.check_wrong_rank),
    (Check("files", "What is written opens again, by path and by bytes, as the same item."), decoding.check_files),
    (Check("stdout", "Its methods print nothing on stdout, where results go."), printing.check_modality),
    (Check("state", "A copy from files gives the same latents, in another process too."), keeping.check_state),
    (Check("pickle", "Options, items and the modality go through pickle."), keeping.check_pickle),
    (Check("bfloat16", "It encodes and decodes under bfloat16 on the CPU."), keeping.check_bfloat16),
    (Check("frozen", "A training step leaves it as it is, and reaches the bridge."), keeping.check_frozen),
    (Check("fingerprint", "The fingerprint changes where the encoding does alone."), keeping.check_fingerprint),
)
TABLE: Table[ModalitySubject] = (*BEFORE, *((check, _on_latents(tried)) for check, tried in ON_LATENTS))


def modality_checks() -> tuple[Check, ...]:
    """The checks of a modality, in the order in which they are tried."""
    return tuple(check for check, _ in TABLE)


def examine_modality(subject: ModalitySubject) -> Iterator[Outcome]:
    """The outcomes, one by one as they come."""
    for check, tried in TABLE:
        yield examine(check, tried, subject)


def check_modality(modality: str | type[Modality], options: Mapping[str, Any] | None = None) -> list[Outcome]:
    """What comes of every check of a modality: a registered name, or a class.

    `options` are laid over the defaults. A check that could not be reached says which one failed before it.
    Raises UsageError for a name that is not installed, and for options that do not suit.
    """
    return list(examine_modality(ModalitySubject(modality, options)))
