"""Fitted codecs as files: written whole or not at all, read back only by a codec with the same options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Modality
from bridgeflow.runtime import durable


def save_codec(modality: Modality, folder: Path, about: Mapping[str, Any], narrow: torch.dtype = torch.float32) -> None:
    """Writes a fitted codec as state.safetensors and codec.json, the latter last: a folder without it holds none.

    narrow: type that float32 tensors of two axes and more are written in; they are float32 again when they are read.

    Raises OSError or SafetensorError where they cannot be written, BridgeflowError where they are not finite or
    overflow the type.
    """
    durable.make_folder(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in modality.fitted_state().items()}
    spoilt = _first_not_finite(state)
    if spoilt is not None:
        raise BridgeflowError(
            f"the codec's {spoilt!r} holds numbers that are not finite, so nothing is written: fit it to other data or "
            "with other options."
        )
    narrowed = [name for name, own in state.items() if own.dtype == torch.float32 != narrow and own.ndim > 1]
    for name in narrowed:
        state[name] = state[name].to(narrow)
        if not is_finite(state[name]):
            raise BridgeflowError(f"the codec's {name!r} is too large for {narrow}: choose --precision bf16 or fp32.")
    path = folder / "state.safetensors"
    part = durable.part_of(path)
    try:
        save_file(state, part)
        durable.publish(part, path)
    finally:
        part.unlink(missing_ok=True)
    facts = {
        **about,
        "options": modality.options.model_dump(mode="json"),
        "facts": modality.fitted_facts(),
        "narrowed": narrowed,
        "checksum": durable.checksum(path),
    }
    durable.write_whole(folder / "codec.json", json.dumps(facts, indent=1, ensure_ascii=False))


def is_finite(tensor: Tensor) -> bool:
    """Whether every number of a tensor is finite."""
    return bool(tensor.isfinite().all())


def _first_not_finite(state: Mapping[str, Tensor]) -> str | None:
    return next((name for name, own in state.items() if not is_finite(own)), None)


def restore_codec(modality: Modality, folder: Path) -> None:
    """Takes a fitted codec from a folder that `save_codec` wrote.

    Raises BridgeflowError when the folder holds none or one fitted with other codec options.
    """
    try:
        described = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
        if not all(isinstance(own, dict) for own in (described, described.get("options"), described.get("facts"))):
            raise ValueError("codec.json describes none")
        narrowed = set(map(str, described.get("narrowed", [])))
        state = load_file(folder / "state.safetensors")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise BridgeflowError(
            f"{str(folder)!r} holds no fitted codec ({error}): make one with bridgeflow fit."
        ) from error
    written = described.get("checksum")
    if written is not None and durable.checksum(folder / "state.safetensors") != written:
        raise BridgeflowError(
            f"the codec in {str(folder)!r} is damaged (state.safetensors has changed since it was written): make it "
            "anew with bridgeflow fit."
        )
    spoilt = _first_not_finite(state)
    if spoilt is not None:
        raise BridgeflowError(
            f"the codec in {str(folder)!r} is damaged ({spoilt!r} holds numbers that are not finite): make it anew "
            "with bridgeflow fit."
        )
    options = modality.options.model_dump(mode="json")
    fitted_for = described.get("options", {})
    if not _alike(fitted_for.get("codec"), options.get("codec")):
        raise BridgeflowError(
            f"the codec in {str(folder)!r} was fitted with codec {fitted_for.get('codec')}, but the recipe asks for "
            f"{options.get('codec')}: fit one with these options, or take those over into the recipe."
        )
    state |= {name: state[name].float() for name in narrowed & state.keys()}
    modality.restore(state, described.get("facts", {}))


def _alike(fitted_for: Any, asked: Any) -> bool:
    """Whether two trees of options agree where neither leaves a value open as 'auto', whatever it came to."""
    if isinstance(fitted_for, Mapping) and isinstance(asked, Mapping):
        return fitted_for.keys() == asked.keys() and all(_alike(fitted_for[key], asked[key]) for key in asked)
    return fitted_for == asked or "auto" in (fitted_for, asked)
