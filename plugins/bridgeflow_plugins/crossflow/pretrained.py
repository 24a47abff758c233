"""The frozen parts that a published file leaves out: its text encoder and its image autoencoder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow_plugins.crossflow.layout import FACTOR, EncoderLayout, Layout

CLIP = "openai/clip-vit-large-patch14"
T5 = "google/t5-v1_1-xxl"
VAE = "stabilityai/sd-vae-ft-ema"

TEXT_WIDTHS = {768: CLIP, 4096: T5}
"""Text encoders of the published networks by the width of their features."""


@dataclass(frozen=True)
class Pretrained:
    """A model that is only recorded: a folder with its config.json, or a name on the Hugging Face hub without."""

    path: str
    config: dict[str, Any] | None


def locate(option: str, given: str | None, default: str, inside: str) -> Pretrained:
    """The model that a flag names, or its default on the hub.

    inside: its folder in one of a diffusers pipeline, which serves as well. Raises BridgeflowError for a folder that
    is not there or holds no such model.
    """
    if given is None:
        return Pretrained(default, None)
    folder = Path(os.path.expanduser(given))
    if given and folder.is_dir():
        return Pretrained(str(folder.resolve()), _config(option, given, folder, inside))
    if given and folder.exists():
        raise BridgeflowError(f"{option} {given!r} is a file: give the folder that `save_pretrained` wrote.")
    if not given or given.startswith(("/", ".", "~")) or given.count("/") > 1 or "\\" in given:
        raise BridgeflowError(
            f"{option} {given!r} does not exist: give a folder, or a name on the Hugging Face hub such as {default}."
        )
    return Pretrained(given, None)


def _config(option: str, given: str, folder: Path, inside: str) -> dict[str, Any]:
    files = (folder / "config.json", folder / inside / "config.json")
    file = next((file for file in files if file.is_file()), files[0])
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BridgeflowError(
            f"{option} {given!r} holds no config.json that can be read: give the folder that `save_pretrained` wrote, "
            f"or one of a diffusers pipeline, with {inside} in it."
        ) from error
    return config if isinstance(config, dict) else {}


def text_encoder(given: Pretrained | None, encoder: EncoderLayout) -> Pretrained:
    """The text encoder whose features a network takes: the one given, or the published network's own.

    Raises UsageError where the widths differ, or where none is given and none is known.
    """
    if given is None:
        if encoder.width not in TEXT_WIDTHS:
            raise UsageError(
                f"the network takes text features of width {encoder.width}, which neither CLIP ViT-L/14 (768) nor "
                "T5 v1.1 XXL (4096) gives: name its text encoder with --text-encoder."
            )
        return Pretrained(TEXT_WIDTHS[encoder.width], None)
    if given.config is not None:
        config = {**given.config, **(given.config.get("text_config") or {})}
        width = config.get("d_model", config.get("hidden_size"))
        if width is None:
            raise UsageError(
                f"--text-encoder {given.path!r} holds no text encoder (its config.json has no hidden_size): give the "
                "folder of a CLIP or T5 of transformers."
            )
        if width != encoder.width:
            raise UsageError(
                f"--text-encoder {given.path!r} gives features of width {width}, but the network takes "
                f"{encoder.width}: name the text encoder it was trained with."
            )
    return given


def pixels_per_cell(vae: Pretrained, layout: Layout) -> int:
    """Pixels along each side of a cell of the latent; raises UsageError where its channels are not the network's."""
    if vae.config is None:
        return FACTOR
    channels = vae.config.get("latent_channels")
    if channels is None:
        raise UsageError(
            f"--vae {vae.path!r} holds no autoencoder (its config.json has no latent_channels): give the folder of an "
            "AutoencoderKL of diffusers."
        )
    if channels != layout.channels:
        raise UsageError(
            f"--vae {vae.path!r} makes latents of {channels} channels, but the network takes {layout.channels}: "
            "name the autoencoder it was trained with."
        )
    blocks = vae.config.get("block_out_channels")
    return 2 ** (len(blocks) - 1) if isinstance(blocks, list) and blocks else FACTOR
