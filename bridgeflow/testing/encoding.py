"""Checks of the way in: made-up items, collating, encoding."""

from __future__ import annotations

import math
import random
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bridgeflow.data.scale import EXPECTED, FIX, all_alike, real_values, scale_of
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item, Latent
from bridgeflow.testing.comparing import same, spread, worst_difference
from bridgeflow.testing.modality_subject import NEEDED_EDGES, ModalitySubject, check_latent
from bridgeflow.testing.outcome import Fault, calling, described
from bridgeflow.testing.subject import ROWS, copied

BATCH_TOLERANCE = 1e-3
"""Difference between an item encoded alone and in a batch, in units of the latent's spread: kernels of another size
add in another order."""

SCALED = 16
"""Made-up items whose scale is looked at."""


def check_construction(subject: ModalitySubject) -> str | None:
    """Built from its options alone, which it keeps."""
    modality = subject.built
    if modality.options != subject.settings:
        raise Fault("`options` are not those it was built with: hand them to super().__init__ as they come.")
    return None


def check_examples(subject: ModalitySubject) -> str | None:
    """Another item for another seed, the same one for the same."""
    items = subject.items
    for seed, item in enumerate(items):
        if not same(item, subject.example(seed)):
            raise Fault(
                "`example` gave two items for one seed: take every draw from the `rng` it is given, and none from "
                "elsewhere."
            )
    if all(same(items[0], other) for other in items[1:]):
        raise Fault("`example` gave the same item for every seed: draw something of it from `rng`.")
    return None


def check_fitting(subject: ModalitySubject) -> str | None:
    """Fitted to made-up items, given one by one."""
    figures = subject.fitted[1]
    if figures is None:
        return "there is nothing to fit"
    if not isinstance(figures, dict):
        raise Fault(f"`fit` gave a {type(figures).__name__}: let it give figures by name, such as how well it decodes.")
    bad = [name for name, value in figures.items() if not isinstance(value, int | float) or not math.isfinite(value)]
    if bad:
        raise Fault(f"`fit` gave no finite number as its figure {bad[0]!r}: give how well it reconstructs, as a float.")
    return None


def check_collate(subject: ModalitySubject) -> str | None:
    """Tensors on the CPU with the batch as first axis."""
    if not subject.batch:
        raise Fault("`collate` gave an empty mapping: let it give the tensors that `encode` needs, by name.")
    for name, tensor in subject.batch.items():
        if tensor.ndim == 0 or len(tensor) != ROWS:
            raise Fault(
                f"`collate` gave {name!r} of shape {_shape(tensor)} for {ROWS} items: make the batch its first axis."
            )
        if tensor.device.type != "cpu" or tensor.requires_grad:
            raise Fault(f"`collate` gave {name!r} on a device or with a gradient: give plain tensors on the CPU.")
    return None


def check_declared(subject: ModalitySubject) -> str | None:
    """What `encode` gives is what `latent` declares."""
    return f"{subject.spec}, {_dtype(subject.latent.mean)}"


def check_distinct(subject: ModalitySubject) -> str | None:
    """Not all items have the same latent."""
    differ = not all(same(subject.items[0], other) for other in subject.items[1:])
    if differ and all_alike(subject.latent):
        raise Fault(
            f"`encode` gave the same latent for {ROWS} different items: let the latent hold what the items differ in."
        )
    return None


def check_scale(subject: ModalitySubject) -> str | None:
    """Latents are of about zero mean and unit variance over made-up items."""
    items = [*subject.items, *(subject.example(seed) for seed in range(ROWS, SCALED))]
    scale = scale_of(subject.encode(items))
    if not scale.suits:
        raise Fault(
            f"the latents of {SCALED} made-up items have {scale}, where {EXPECTED} are expected, and the loss follows "
            f"their scale: {FIX}."
        )
    return str(scale)


def check_rows(subject: ModalitySubject) -> str | None:
    """An item's latent does not depend on the batch it is in."""
    together = subject.latent
    for row, item in enumerate(subject.items):
        alone = subject.encode([item], "a batch of one")
        difference = worst_difference(alone, together.rows(slice(row, row + 1)))
        if difference > BATCH_TOLERANCE * spread(together):
            raise Fault(
                f"the latent of an item alone differs from its row in a batch of {ROWS} by {difference:.2g}: let "
                "`collate` and `encode` treat each item by itself, without a mean or a maximum over the batch."
            )
    return None


def check_deterministic(subject: ModalitySubject) -> str | None:
    """The same latent whatever the global random state; the spread of a sampling codec is `std`."""
    with torch.random.fork_rng(devices=[]):
        first = _seeded(1, subject)
        second = _seeded(2, subject)
    if not same(first[0], second[0]):
        raise Fault("`collate` gave two batches for the same items: let it draw nothing at random.")
    if worst_difference(first[1], second[1]) > 1e-6 * spread(first[1]):
        raise Fault(
            "`encode` gave two latents for the same batch: let it draw nothing at random, not from dropout either, "
            "and give the spread of a codec that samples as `std`."
        )
    drawn = [subject.latent.sample(torch.Generator().manual_seed(5)) for _ in range(2)]
    if not same(drawn[0], drawn[1]):
        raise Fault("the latent's `sample` gave two draws under one generator: use Latent as it is.")
    if subject.only_source:
        return None
    _ = subject.decoded
    if not same(subject.decode(subject.latent.mean), subject.decode(subject.latent.mean)):
        raise Fault(
            "`decode` gave two results for the same latent: let it draw nothing at random, or from a fixed seed."
        )
    return None


def _seeded(seed: int, subject: ModalitySubject) -> tuple[dict[str, Tensor], Latent]:
    kept = np.random.get_state(), random.getstate()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        batch = subject.collate(subject.items)
        return batch, subject.encode_batch(batch)
    finally:
        np.random.set_state(kept[0])
        random.setstate(kept[1])


def check_untouched(subject: ModalitySubject) -> str | None:
    """Nothing that is handed in is changed."""
    modality = subject.ready
    items = [subject.example(seed) for seed in range(ROWS)]
    kept = copied(items)
    with calling("collate"):
        batch = modality.collate(items)
    if not same(items, kept):
        raise Fault("`collate` changed the items it was given: work on copies, since items are kept and used again.")
    given = {name: tensor.clone() for name, tensor in batch.items()}
    with calling("encode"), torch.no_grad():
        latent = modality.encode(batch)
    if not same(given, dict(batch)):
        raise Fault("`encode` changed the batch it was given: work on copies, since a batch is used again.")
    if not subject.only_source:
        _ = subject.decoded
        mean = latent.mean.clone()
        with calling("decode"), torch.no_grad():
            modality.decode(latent.mean)
        if not same(mean, latent.mean):
            raise Fault("`decode` changed the latent it was given: work on a copy (no operation with a trailing _).")
    _check_shown_untouched(subject)
    return None


def _check_shown_untouched(subject: ModalitySubject) -> None:
    """The same of the item that `preview` and `write` are handed."""
    item = subject.items[0] if subject.only_source else subject.decoded[0]
    for method in ("preview", "write"):
        given = copied(item)
        with tempfile.TemporaryDirectory() as folder, suppress(Exception):
            # What they raise is reported by the checks of previews and files.
            if method == "preview":
                subject.ready.preview(given)
            else:
                subject.ready.write(given, Path(folder, f"item{subject.ready.writes}"))
        if not same(given, item):
            raise Fault(
                f"`{method}` changed the item it was given: work on a copy, since a result is shown, written and "
                "scored."
            )


def check_edges(subject: ModalitySubject) -> str | None:
    """Finite latents at the edges of what `read` may give."""
    missing = [name for name in NEEDED_EDGES if name not in subject.extremes]
    if missing:
        raise Fault(f"`extremes` lacks {missing[0]!r}: give an item for each of {', '.join(NEEDED_EDGES)} and odd.")
    if not subject.only_source:
        _ = subject.decoded
    for name, item in subject.extremes.items():
        if name == "odd":
            continue
        latent = subject.encode([item], f"the edge {name!r}")
        if not latent.mean.isfinite().all() or (latent.std is not None and not latent.std.isfinite().all()):
            raise Fault(f"the latent of the edge {name!r} is not finite: guard the division or logarithm in `encode`.")
        if not subject.only_source:
            again = subject.encode(subject.decode(latent.mean, f"the edge {name!r}"), f"the edge {name!r}, decoded")
            if not again.mean.isfinite().all():
                raise Fault(f"the edge {name!r} is not finite once it is decoded: guard `decode` as well.")
    return None


def check_odd(subject: ModalitySubject) -> str | None:
    """A size that nothing divides works, or the error says which does."""
    if "odd" not in subject.extremes:
        raise Fault("`extremes` lacks 'odd': give an item of a size that no patch or block divides, such as 37x23.")
    note = _odd_item(subject, subject.extremes["odd"])
    return _odd_size_option(subject) or note


def _odd_item(subject: ModalitySubject, item: Item) -> str | None:
    try:
        latent = subject.encode([item], "the item of odd size")
    except Fault as fault:
        return _names_size(fault, "an item of odd size")
    if latent.mean.shape[1:] != subject.latent.mean.shape[1:]:
        raise Fault(
            f"the item of odd size became {_shape(latent.mean)}, not the shape of other items: bring every item to "
            "one size in `collate`, or raise BridgeflowError naming the size and the multiple it has to have."
        )
    if not latent.mean.isfinite().all():
        raise Fault("the latent of the item of odd size is not finite: mind empty rows and columns in `collate`.")
    return None


def _odd_size_option(subject: ModalitySubject) -> str | None:
    """The same for the option `size`, where there is one that is a whole number."""
    size = getattr(subject.settings, "size", None)
    if not isinstance(size, int) or isinstance(size, bool):
        return None
    try:
        with calling("__init__", f"size={size + 1}"):
            settings = type(subject.settings).model_validate({**subject.settings.model_dump(), "size": size + 1})
            modality = subject.kind(settings)
        if not modality.needs_fit:
            latent = subject.encode(subject.items, f"size={size + 1}", modality)
            check_latent(latent, modality.latent, f"size={size + 1}")
    except Fault as fault:
        return _names_size(fault, f"size={size + 1}")
    return None


def _names_size(fault: Fault, what: str) -> str:
    """A note where a refusal says which sizes work; else the fault."""
    cause = fault.__cause__
    if cause is None:
        raise fault
    sentence = described(cause)
    if isinstance(cause, BridgeflowError | ValueError) and re.search(r"\d", sentence) and "multiple" in sentence:
        return f"{what} is refused: {sentence}"
    raise Fault(
        f"{what} failed ({sentence}), which does not say what would work: make it work, or raise BridgeflowError "
        "that names the size and the multiple it has to have."
    ) from cause


def check_masks(subject: ModalitySubject) -> str | None:
    """Masks are bool, of the agreed shape, and padding changes nothing that is real."""
    latent, edges = subject.masked, _encodable(subject)
    alone = [subject.encode([item], "one item") for item in [*subject.items, *edges]]
    together = subject.encode([*subject.items, *edges], "items of different lengths")
    for made in (together, *alone):
        subject.check_mask(made)
        if (made.mask is None) != (latent.mask is None):
            raise Fault("`encode` gives a mask for some batches and none for others: give one always, or never.")
    if latent.mask is None:
        return "all of the latent is real, since there is no mask"
    for row, own in enumerate(alone):
        beside = together.rows(slice(row, row + 1))
        if not same(own.mask, beside.mask):
            raise Fault("an item's mask changes with the items beside it: let it depend on the item alone.")
        difference = worst_difference(own, beside, real_values(own))
        if difference > BATCH_TOLERANCE * spread(latent):
            raise Fault(
                f"an item's real values change by {difference:.2g} beside a longer item: let `encode` leave padding "
                "out of every sum, mean and attention."
            )
    return None


def _encodable(subject: ModalitySubject) -> list[Item]:
    """The edges but for the odd size and those that the check of edges finds fault with."""
    found = []
    for name, item in subject.extremes.items():
        try:
            if name != "odd" and subject.encode([item]).mean.isfinite().all():
                found.append(item)
        except Fault:
            continue
    return found


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
