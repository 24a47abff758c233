"""Checks of the way out: decoding, files, previews."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import torch
from PIL.Image import Image

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item, Latent, Modality
from bridgeflow.testing.comparing import worst_difference
from bridgeflow.testing.outcome import Fault, calling, described
from bridgeflow.testing.subject import ModalitySubject

FILE_TOLERANCE = 1e-3
"""Root mean square difference, in the latent's units, that a file may make; `round_trip` where that is larger."""
DAMAGED = bytes(range(7, 256, 3)) * 4


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
            f"{stated:g}: mend `decode`, or state what holds."
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
    for given, axes in ((mean[0], "an axis too few"), (mean[None], "an axis too many")):
        try:
            with torch.no_grad():
                subject.ready.decode(given.clone())
        except (BridgeflowError, ValueError) as error:
            if not re.search(r"\D+".join(map(str, shape)), str(error)):
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
    """What `write` writes, `read` reads, and it encodes to the same latent."""
    modality = subject.ready
    for ending in modality.reads:
        if not ending.startswith(".") or ending != ending.lower():
            raise Fault(f"`reads` has {ending!r}: write file endings in lower case with their dot, such as '.png'.")
    if not subject.overrides("write"):
        if subject.only_source:
            return "it writes no files, being only ever a source"
        raise Fault("it is a target but does not write files: write its method `write`.")
    tolerance = max(FILE_TOLERANCE, modality.round_trip or 0.0)
    with tempfile.TemporaryDirectory() as folder:
        # What gets written is what `decode` makes.
        item = subject.items[0] if subject.only_source else subject.decoded[0]
        with calling("write", f"the path item{modality.writes}"):
            paths = modality.write(item, Path(folder, f"item{modality.writes}"))
        if not isinstance(paths, list) or not paths:
            raise Fault("`write` gave no list of paths: return every file that was written.")
        gone = [path for path in paths if not Path(path).is_file()]
        if gone:
            raise Fault(f"`write` names the file {Path(gone[0]).name!r}, which is not there: return what was written.")
        _check_other_ending(modality, item, Path(folder, "other.ending"))
        readable = [Path(path) for path in paths if Path(path).suffix.lower() in modality.reads]
        if not readable:
            raise Fault(
                f"`write` made {Path(paths[0]).name!r}, whose ending `reads` does not have: add it there, or write "
                "another format."
            )
        with calling("read", f"the file {readable[0].name!r} that `write` wrote"):
            back = modality.read(readable[0])
        difference = worst_difference(subject.encode([item]), subject.encode([back], "an item read from a file"))
    if difference > tolerance:
        raise Fault(
            f"an item written and read again encodes {difference:.3g} away from itself (allowed: {tolerance:g}): "
            "mend `write` or `read`, or write a format that loses less."
        )
    return None


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
    """A file that is missing or damaged is refused in one sentence that names it."""
    modality = subject.built
    if not modality.reads:
        return "it reads no files"
    with tempfile.TemporaryDirectory() as folder:
        missing = Path(folder, f"missing{modality.reads[0]}")
        damaged = Path(folder, f"damaged{modality.reads[0]}")
        damaged.write_bytes(DAMAGED)
        for path, optional in ((missing, False), (damaged, True)):
            try:
                modality.read(path)
            except BridgeflowError as error:
                if path.stem not in str(error):
                    raise Fault(
                        f"`read` refuses the {path.stem} file {path.name!r} without naming it ({described(error)}): "
                        "name the file in the error."
                    ) from error
            except Exception as error:
                raise Fault(
                    f"`read` meets the {path.stem} file {path.name!r} with {described(error)}: raise BridgeflowError "
                    "that names the file, so that training can pass it over."
                ) from error
            else:
                # Any bytes may be an item of some formats.
                if not optional:
                    raise Fault(
                        f"`read` takes {path.name!r}, which does not exist: raise BridgeflowError that names it."
                    )
    return None


def check_preview(subject: ModalitySubject) -> str | None:
    """A picture for people, of items and of edges."""
    edges = {f"the edge {name!r}": item for name, item in subject.extremes.items()}
    for name, item in {"a made-up item": subject.items[0], **edges}.items():
        with calling("preview", name):
            picture = subject.built.preview(item)
        if not isinstance(picture, Image) or picture.mode != "RGB" or 0 in picture.size:
            what = f"an image of mode {picture.mode}" if isinstance(picture, Image) else f"a {type(picture).__name__}"
            raise Fault(f"`preview` gave {what} for {name}: give a PIL image of mode RGB (image.convert('RGB')).")
    return None
