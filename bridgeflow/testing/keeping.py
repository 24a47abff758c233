"""Checks of what must not change: weights, state on its way through files, processes and dtypes."""

from __future__ import annotations

import json
import pickle
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Modality
from bridgeflow.settings import Settings
from bridgeflow.testing.comparing import same, spread, worst_difference
from bridgeflow.testing.modality_subject import RESTORED_TOLERANCE, ModalitySubject
from bridgeflow.testing.outcome import Fault, calling, described
from bridgeflow.testing.subject import copied
from bridgeflow.testing.tiny import tiny_bridge, training_step

BFLOAT16_TOLERANCE = 0.1
"""Difference that bfloat16 may make, in units of the latent's spread."""
VARIATIONS = 8
"""Other values of options that the fingerprint is tried with."""


def check_frozen(subject: ModalitySubject) -> str | None:
    """A training step of a bridge leaves the modality as it was, and reaches the bridge."""
    modality = subject.ready
    _ = subject.masked
    before = {name: tensor.clone() for name, tensor in modality.state_dict().items()}
    # Fitting may have left some.
    modality.zero_grad(set_to_none=True)
    batch = subject.collate(subject.items)
    with calling("encode", "a batch, with gradients switched on"), torch.enable_grad():
        latent = modality.encode(batch)
    bridge = tiny_bridge(subject.spec, subject.spec)
    training_step(bridge, latent, latent, seed=0)
    moved = [name for name, parameter in modality.named_parameters() if parameter.grad is not None]
    modality.zero_grad(set_to_none=True)
    if moved:
        raise Fault(
            f"the parameter {moved[0]!r} got a gradient from a training step: freeze the modality with "
            "self.requires_grad_(False) in `__init__`."
        )
    asking = [name for name, parameter in modality.named_parameters() if parameter.requires_grad]
    if asking:
        raise Fault(
            f"the parameter {asking[0]!r} asks for gradients, though nothing but `fit` ever changes it: freeze the "
            "modality with self.requires_grad_(False) in `__init__` and at the end of `fit`."
        )
    after = modality.state_dict()
    changed = [name for name, tensor in before.items() if name not in after or not same(tensor, after[name])]
    if changed:
        raise Fault(
            f"the tensor {changed[0]!r} changed while encoding: keep running statistics still, by self.eval() in "
            "`__init__` and a `train` that stays in evaluation mode."
        )
    return None


def check_state(subject: ModalitySubject) -> str | None:
    """A fresh modality that takes state and facts from files gives the same latents, in a fresh process too."""
    with calling("load_state_dict", "its own state_dict"):
        subject.restored.load_state_dict(subject.ready.state_dict())
    difference = worst_difference(subject.encode(subject.items, "a copy", subject.restored), subject.latent)
    if difference > RESTORED_TOLERANCE * spread(subject.latent):
        raise Fault(f"a copy that took the state_dict gives other latents (by {difference:.2g}): fix its hooks.")
    if subject.elsewhere is None:
        return "not tried in a fresh process, which cannot import its class or unpickle its items"
    return None


def check_pickle(subject: ModalitySubject) -> str | None:
    """The workers of a data loader get modality, options and items by pickle."""
    for name, value in (("Options", subject.settings), ("the items", subject.items), ("the batch", subject.batch)):
        if not same(_pickled(value, name), value):
            raise Fault(f"{name} came out of pickle as something else: use plain values, arrays and dataclasses.")
    copy = _pickled(subject.ready, "the modality")
    difference = worst_difference(subject.encode(subject.items, "a pickled copy", copy), subject.latent)
    if difference > RESTORED_TOLERANCE * spread(subject.latent):
        raise Fault("a pickled copy gives other latents: let `__getstate__` keep what `encode` needs.")
    return None


def _pickled(value: Any, name: str) -> Any:
    try:
        return pickle.loads(pickle.dumps(value))
    except Exception as error:
        raise Fault(
            f"{name} cannot be pickled ({described(error)}), which the workers of a data loader need: keep no lambda, "
            "open file or lock in it, and define classes at the top of a module."
        ) from error


def check_bfloat16(subject: ModalitySubject) -> str | None:
    """Encoding under autocast and decoding bfloat16 latents work on the CPU, and come close."""
    allowed = BFLOAT16_TOLERANCE * spread(subject.latent)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent = subject.encode(subject.items, "a batch under bfloat16 autocast")
    difference = worst_difference(latent, subject.latent)
    if not latent.mean.is_floating_point() or difference > allowed:
        raise Fault(
            f"under bfloat16 autocast the latent is {difference:.2g} off: switch autocast off around what cannot "
            "bear it (torch.autocast(device, enabled=False))."
        )
    if subject.only_source:
        return None
    again = subject.encode(subject.decoded)
    items = subject.decode(subject.latent.mean.bfloat16(), "a bfloat16 latent")
    difference = worst_difference(again, subject.encode(items, "items decoded from bfloat16"))
    if difference > allowed + (subject.ready.round_trip or 0.0):
        raise Fault(f"a bfloat16 latent decodes to something {difference:.2g} off: begin `decode` with latent.float().")
    return None


def check_fingerprint(subject: ModalitySubject) -> str | None:
    """16 digits that change where the encoding does, and only then."""
    own = _fingerprint(subject.ready)
    if not re.fullmatch(r"[0-9a-f]{16}", own):
        raise Fault(f"`fingerprint` gave {own!r}: give 16 hexadecimal digits.")
    _check_one_fingerprint(subject, own)
    unfitted = _unfitted_fingerprint(subject)
    if subject.fitted[1] is not None:
        _check_fitted_fingerprint(subject, own, unfitted)
    tried = 0
    for place, settings in variations(subject.settings):
        if tried == VARIATIONS:
            break
        try:
            other = subject.kind(settings)
            changed = _encodes_otherwise(subject, other)
        except (BridgeflowError, ValueError):
            # Not every other value suits the rest of the options.
            continue
        tried += 1
        if changed and _fingerprint(other) == (unfitted if other.needs_fit else own):
            raise Fault(
                f"`fingerprint` stays the same under another `{place}`, though the latent changes: begin it with "
                "super().fingerprint(), or cached latents of other options would be taken."
            )
    return f"{tried} other options tried" if tried else "there are no options to change"


def _check_one_fingerprint(subject: ModalitySubject, own: str) -> None:
    """The same answer again, from an equal modality, and from one in a fresh process."""
    fix = "let it depend on what `encode` depends on alone"
    if _fingerprint(subject.ready) != own:
        raise Fault(f"`fingerprint` gave two answers for one modality: {fix}.")
    if _fingerprint(subject.restored) != own:
        raise Fault(f"`fingerprint` gave another answer for a copy with the same options and state: {fix}.")
    if subject.elsewhere is not None and subject.elsewhere.fingerprint != own:
        raise Fault(
            f"`fingerprint` gave another answer in a fresh process: {fix}, and on no `hash` of a string or `id`, "
            "which change from process to process (hashlib does not)."
        )


def _unfitted_fingerprint(subject: ModalitySubject) -> str:
    """The answer of a modality before it is fitted; empty where it refuses to give one, since it encodes nothing."""
    try:
        return subject.build().fingerprint()
    except Exception:
        return ""


def _check_fitted_fingerprint(subject: ModalitySubject, own: str, unfitted: str) -> None:
    """Another answer for what is not fitted, and for what was fitted otherwise."""
    fix = "begin it with super().fingerprint(), or cached latents of another codec would be taken"
    if unfitted == own:
        raise Fault(f"`fingerprint` is the same before and after fitting: {fix}.")
    for what, state, facts in _otherwise_fitted(*subject.stored):
        other = subject.build()
        try:
            other.restore(state, facts)
            changed = _encodes_otherwise(subject, other)
        except Exception:
            # Not any number suits a codec.
            continue
        if changed and _fingerprint(other) == own:
            raise Fault(f"`fingerprint` stays the same under another {what}, though the latent changes: {fix}.")


def _otherwise_fitted(
    state: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Any]]]:
    """(what is changed, state, facts): what fitting left, with other numbers in the one or in the other."""
    other = {name: tensor * 1.25 + 0.125 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    yield "fitted state", other, copied(dict(facts))
    yield "`fitted_facts`", dict(state), _other_numbers(dict(facts))


def _other_numbers(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _other_numbers(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_other_numbers(value) for value in tree]
    return tree * 1.25 + 0.125 if isinstance(tree, float) else tree


def _fingerprint(modality: Modality) -> str:
    with calling("fingerprint"):
        return modality.fingerprint()


def _encodes_otherwise(subject: ModalitySubject, other: Modality) -> bool:
    if other.latent != subject.spec:
        return True
    if other.needs_fit:
        return False
    latent = subject.encode(subject.items, "other options", other)
    return worst_difference(latent, subject.latent) > RESTORED_TOLERANCE * spread(subject.latent)


def variations(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """(option, settings) with one option changed to another value that is allowed."""
    tree = settings.model_dump(mode="json")
    for path, value in _leaves(settings, ()):
        changed = json.loads(json.dumps(tree))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        try:
            yield ".".join(path), type(settings).model_validate(changed)
        except ValidationError:
            continue


def _leaves(settings: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, another value) of every number, switch and choice in a tree of options."""
    for name, field in type(settings).model_fields.items():
        value, place = getattr(settings, name), (*path, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, place)
        elif isinstance(value, bool):
            yield place, not value
        elif isinstance(value, int | float):
            yield place, value * 2
        elif typing.get_origin(field.annotation) is Literal:
            yield from ((place, other) for other in typing.get_args(field.annotation) if other != value)
