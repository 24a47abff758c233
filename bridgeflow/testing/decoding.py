"""Checks of the way out: decoding, files, previews."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item, Latent, Modality
from bridgeflow.testing.comparing import worst_difference
from bridgeflow.testing.modality_subject import ModalitySubject
from bridgeflow.testing.outcome import Fault, calling, described
from bridgeflow.testing.subject import copied

FILE_TOLERANCE = 1e-3
"""Root mean square difference, in the latent's units, that a file may make; `round_trip` where that is larger."""
DAMAGED = bytes(range(7, 256, 3)) * 4
MISSING_STEM, DAMAGED_STEM = "qj7x", "zk4w"
"""Names of files that no sentence holds by chance."""


def check_round_trip(subject: ModalitySubject) -> str | None:
    """A latent, decoded and encoded again, is itself within `round_trip`."""
    stated = subject.ready.round_trip
    if stated is None:
        if subject.overrides("decode") and _decodes(subject):
            raise Fault(
                "it decodes, but states no `round_trip`: set it to the greatest root mean square difference between "
                "a latent and itself, decoded and encoded again."
            )
        return subject.only_source
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not stated >= 0:
        raise Fault(f"`round_trip` is {stated!r}: set it to a number of the latent's units, or None for a source.")
    latent = subject.latent
    again = subject.encode(subject.decoded, "items that `decode` made")
    difference = worst_difference(Latent(latent.mean, mask=latent.mask), Latent(again.mean, mask=again.mask))
    if difference > stated:
        raise Fault(
            f"a latent, decoded and encoded again, differs from itself by {difference:.3g}, and `round_trip` states "
            f"{stated:g}: fix `decode`, or state what holds."
        )
    return f"{difference:.2g} of {stated:g}"


def _decodes(subject: ModalitySubject) -> bool:
    try:
        _ = subject.decoded
    except Fault as fault:
        # A refusal in words is how a source says that it does not decode with these options.
        if isinstance(fault.__cause__, BridgeflowError):
            return False
        raise
    return True


def check_wrong_rank(subject: ModalitySubject) -> str | None:
    """`decode` refuses a latent of one axis too few or too many, naming the shape it expects."""
    if subject.only_source:
        return subject.only_source
    mean, shape = subject.latent.mean, subject.spec.shape
    expected = f"(B, {', '.join(map(str, shape))})"
    # A number that occurs nowhere in that shape: a sentence that quotes only what it was given does not name it.
    size = next(size for size in range(2, 100) if not any(str(n) in str(size) for n in shape))
    other = mean.new_zeros([size] * (len(shape) + 2))
    named = r"\D+".join(map(str, shape))
    for given in (mean[0], mean[None], other[0, 0], other):
        axes = "an axis too few" if given.ndim == len(shape) else "an axis too many"
        try:
            with torch.no_grad():
                subject.ready.decode(given.clone())
        except (BridgeflowError, ValueError) as error:
            if size in given.shape and not re.search(rf"(?<!\d){named}(?!\d)", str(error)):
                raise Fault(
                    f"`decode` refuses {tuple(given.shape)}, {axes}, without saying what it expects "
                    f"({described(error)}): name the shape {expected} in the error."
                ) from error
        except Exception as error:
            raise Fault(
                f"`decode` meets {tuple(given.shape)}, {axes}, with {described(error)}: look at the shape first and "
                f"raise BridgeflowError that names {expected}."
            ) from error
        else:
            raise Fault(
                f"`decode` takes {tuple(given.shape)}, {axes}, without a word: raise BridgeflowError that names "
                f"{expected}."
            )
    return None


def check_files(subject: ModalitySubject) -> str | None:
    """What `write` writes, `read` reads from its path or its bytes, and it encodes to the same latent."""
    modality = subject.ready
    for ending in modality.reads:
        if not ending.startswith(".") or ending != ending.lower():
            raise Fault(f"`reads` has {ending!r}: write file endings in lower case with their dot, such as '.png'.")
    if not subject.overrides("write"):
        if subject.only_source:
            return "it writes no files, being only ever a source"
        raise Fault("it is a target but does not write files: write its method `write`.")
    # What gets written is what `decode` makes.
    item = subject.items[0] if subject.only_source else subject.decoded[0]
    with tempfile.TemporaryDirectory() as folder:
        with calling("write", f"the path item{modality.writes}"):
            paths = modality.write(copied(item), Path(folder, f"item{modality.writes}"))
        if not isinstance(paths, list) or not paths:
            raise Fault("`write` gave no list of paths: return every file that was written.")
        gone = [path for path in paths if not Path(path).is_file()]
        if gone:
            raise Fault(f"`write` names the file {Path(gone[0]).name!r}, which is not there: return what was written.")
        _check_other_ending(modality, copied(item), Path(folder, "other.ending"))
        readable = [Path(path) for path in paths if Path(path).suffix.lower() in modality.reads]
        if not readable:
            raise Fault(
                f"`write` made {Path(paths[0]).name!r}, whose ending `reads` does not have: add it there, or write "
                "another format."
            )
        _check_reading(subject, item, readable[0], alone=len(paths) == 1)
    return None


def _check_reading(subject: ModalitySubject, item: Item, path: Path, alone: bool) -> None:
    """A file that `write` wrote gives the item, by its path as a `Path` and a string, and by its bytes. Of several
    files written for an item (`alone` is False) the bytes of one may not suffice."""
    modality = subject.ready
    tolerance = max(FILE_TOLERANCE, modality.round_trip or 0.0)
    latent = subject.encode([item])
    values: dict[str, Any] = {"path": path, "path as a string": str(path), "bytes": path.read_bytes()}
    if modality.textual:
        # Words, and no path, are what a string may hold here.
        del values["path as a string"]
    for form, value in values.items():
        try:
            with calling("read", f"the {form} of the file {path.name!r} that `write` wrote"):
                back = modality.read(value)
        except Fault as fault:
            if form == "bytes" and not alone and isinstance(fault.__cause__, BridgeflowError):
                continue
            raise
        difference = worst_difference(latent, subject.encode([back], f"an item read from the {form} of a file"))
        if difference > tolerance:
            again = "again" if form == "path" else f"again, by the {form} of its file,"
            raise Fault(
                f"an item written and read {again} encodes {difference:.3g} away from itself (allowed: "
                f"{tolerance:g}): fix `write` or `read`, or write a format that loses less."
            )


def _check_other_ending(modality: Modality, item: Item, path: Path) -> None:
    """An ending that a modality does not write is refused, or written for all that: never another file."""
    with calling("write", f"the path {path.name}, whose ending is not {modality.writes},"):
        try:
            paths = modality.write(item, path)
        except BridgeflowError:
            return
    gone = [Path(made).name for made in paths if not Path(made).is_file()]
    if gone:
        raise Fault(
            f"`write` names the file {gone[0]!r}, which is not there: refuse an ending that it does not write with "
            "BridgeflowError."
        )


def check_unreadable(subject: ModalitySubject) -> str | None:
    """A file that is missing or damaged is refused in one sentence that names it; damaged bytes in one sentence."""
    modality = subject.built
    if not modality.reads:
        return "it reads no files"
    with tempfile.TemporaryDirectory() as folder:
        missing = Path(folder, f"{MISSING_STEM}{modality.reads[0]}")
        damaged = Path(folder, f"{DAMAGED_STEM}{modality.reads[0]}")
        damaged.write_bytes(DAMAGED)
        _check_refusal(modality, missing, f"the missing file {missing.name!r}", missing.stem)
        _check_refusal(modality, damaged, f"the damaged file {damaged.name!r}", damaged.stem)
        if not subject.overrides("write") and not modality.textual:
            # Where it writes, the check of files tries strings.
            _check_refusal(modality, str(missing), f"the string {missing.name!r}, a missing file", missing.stem)
    _check_refusal(modality, DAMAGED, "damaged bytes", "")
    return None


def _check_refusal(modality: Modality, value: Any, what: str, stem: str) -> None:
    """`read` refuses a value in words that hold the stem. Any bytes may be an item of some formats."""
    try:
        modality.read(value)
    except BridgeflowError as error:
        if stem not in str(error):
            raise Fault(
                f"`read` refuses {what} without naming it ({described(error)}): name the file in the error."
            ) from error
    except Exception as error:
        raise Fault(
            f"`read` meets {what} with {described(error)}: raise BridgeflowError that names the file, so that "
            "training can pass it over."
        ) from error
    else:
        if stem == MISSING_STEM:
            raise Fault(f"`read` takes {what}, which does not exist: raise BridgeflowError that names it.")


def check_preview(subject: ModalitySubject) -> str | None:
    """A picture for people, of items and of edges."""
    edges = {f"the edge {name!r}": item for name, item in subject.extremes.items()}
    for name, item in {"a made-up item": subject.items[0], **edges}.items():
        with calling("preview", name):
            picture = subject.built.preview(copied(item))
        if not isinstance(picture, Image) or picture.mode != "RGB" or 0 in picture.size:
            what = f"an image of mode {picture.mode}" if isinstance(picture, Image) else f"a {type(picture).__name__}"
            raise Fault(f"`preview` gave {what} for {name}: give a PIL image of mode RGB (image.convert('RGB')).")
    return None
