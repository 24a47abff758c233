"""Text as a source: token features of a frozen text encoder."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.settings import Settings
from bridgeflow_plugins.text.cutting import advise_on_length
from bridgeflow_plugins.text.placing import Placed
from bridgeflow_plugins.text.pretrained import (
    files_digest,
    find_encoder,
    is_clip,
    load_config,
    load_network,
    load_tokenizer,
    text_config,
    title_of,
)

MINILM_SCALE = 2.4
"""Brings the token features of all-MiniLM-L6-v2 to about unit variance: their standard deviation is 0.41 over
captions of coloured solids and 0.44 over everyday sentences."""
ROWS_AT_A_TIME = 16
"""Texts that the encoder takes at a time, sorted by length so that little padding is computed."""
ENTRIES_AT_A_TIME = 4096
"""Tokens of the vocabulary whose features are computed together."""
MOST_TOKENS = 4096
"""Tokens of a text at most, whatever the encoder."""


class EncoderCodec(Settings):
    """Token features of a frozen text encoder: a latent of (max_length, hidden size), with a mask."""

    name: Literal["encoder"] = "encoder"
    path: str | None = None
    """Folder with a CLIP, T5 or BERT-like encoder and its tokenizer, folder of a diffusers pipeline (its
    `text_encoder` and `tokenizer`), or a name on the Hugging Face hub. None: the all-MiniLM-L6-v2 that is installed
    with bridgeflow."""
    width: int | None = Field(None, ge=1)
    """Hidden size of the encoder (768 for CLIP ViT-L/14, 4096 for T5-XXL). Given, the latent's shape is known before
    anything of the encoder is read; one of another size is refused when it is read."""
    max_length: int = Field(32, ge=2, le=MOST_TOKENS)
    """Tokens of a text, special ones included; what follows is cut."""
    layer: int = -1
    """Hidden state to take: -1 is the output after the final norm; 0 the embeddings, 1 the first layer and so
    on; -2 and below count from the end."""
    padding: Literal["zeroed", "encoded"] = "zeroed"
    """Features at padding: `zeroed`, or `encoded`, what the encoder gives there over all `max_length` positions, as
    published CrossFlow models read it (for CLIP without an attention mask). The mask is the same in both."""
    scale: float | None = Field(None, gt=0)
    """Factor on the features (10 for T5 in CrossFlow). None: 2.4 for the output of the installed
    all-MiniLM-L6-v2, which gives about unit variance, and 1 for any other."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """dtype of the weights and of the computation; features are float32 in both. bf16 takes half the memory
    and is 1.6 times as fast on a CPU that has it; errors reach 0.1 in features of unit variance."""

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
        """(max_length, hidden size); read from the encoder's configuration where `width` does not tell."""
        width = self.settings.width
        if width is None:
            width = int(text_config(self._load_config()).hidden_size)
        return LatentSpec((self.settings.max_length, width), "sequence")

    @property
    def title(self) -> str:
        """What messages call the encoder."""
        return title_of(self.settings.path)

    @property
    def scale(self) -> float:
        """The factor on the features."""
        if self.settings.scale is not None:
            return self.settings.scale
        return MINILM_SCALE if self.settings.path is None and self.settings.layer == -1 else 1.0

    def collate(self, items: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`: (B, max_length) int64, cut or padded on the right; with `Placed` items also
        `kept`, which tokens are theirs."""
        rows = self._load_tokenizer()(
            [item.line if isinstance(item, Placed) else item for item in items],
            padding="max_length",
            truncation=True,
            max_length=self.settings.max_length,
            return_tensors="pt",
        )
        batch = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
        if any(isinstance(item, Placed) for item in items):
            batch["kept"] = torch.stack([self._kept(item) for item in items])
        return batch

    def _kept(self, item: str) -> Tensor:
        """Of which tokens something is made: of all but for `Placed` items; int64 (max_length,)."""
        limit, tokenizer = self.settings.max_length, self._load_tokenizer()
        if not isinstance(item, Placed):
            return torch.ones(limit, dtype=torch.int64)
        special = tokenizer.get_special_tokens_mask(tokenizer(item.line)["input_ids"], already_has_special_tokens=True)
        leading = special.index(0)
        before, own = (
            len(tokenizer(part, add_special_tokens=False)["input_ids"]) if part else 0 for part in (item.before, item)
        )
        kept = torch.zeros(limit, dtype=torch.int64)
        kept[leading + before : leading + before + own] = 1
        return kept

    def advise(self, items: Iterable[str], side: str) -> list[str]:
        """A sentence on texts of more than `max_length` tokens, where there are any."""
        limit, tokenizer = self.settings.max_length, self._load_tokenizer()
        most = _most_tokens(text_config(self._load_config()))

        def fix(longest: int) -> str:
            if limit >= most:
                return f"the encoder {self.title} takes no more, so take another with {side}.codec.path"
            return f"train with {side}.codec.max_length={min(longest, most)} to read more"

        def read(text: str) -> str:
            ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
            return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

        def length(text: str) -> int:
            return len(tokenizer(text, verbose=False)["input_ids"])

        return advise_on_length(items, length, read, limit, "tokens, special ones included", fix)

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """float32 features (B, max_length, hidden size) with the mask (B, max_length) of the real tokens."""
        network = self._load_network()
        device = self.anchor.device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        if "kept" in batch:
            whole = self.encode({"input_ids": ids, "attention_mask": mask})
            kept = batch["kept"].to(device).bool()
            return Latent(whole.mean * kept[:, :, None], mask=mask.bool() & kept)
        features = torch.zeros(*ids.shape, self.spec.shape[1], device=device)
        at_a_time = ROWS_AT_A_TIME if device.type == "cpu" else max(1, len(ids))
        if self.settings.padding == "encoded":
            seen = None if is_clip(self._load_config()) else mask
            for start in range(0, len(ids), at_a_time):
                rows = slice(start, start + at_a_time)
                states = self._states(network, ids[rows], None if seen is None else seen[rows])
                features[rows] = states * self.scale
            return Latent(features, mask=mask.bool())
        lengths = mask.sum(1)
        for chosen in lengths.argsort(descending=True).split(at_a_time):
            longest = max(1, int(lengths[chosen[0]]))
            states = self._states(network, ids[chosen, :longest], mask[chosen, :longest])
            features[chosen, :longest] = states.masked_fill(mask[chosen, :longest, None] == 0, 0.0) * self.scale
        return Latent(features, mask=mask.bool())

    def entries(self, place: int) -> Tensor | None:
        """Features (V, hidden size) of every token of the vocabulary at a place, for layer=0, where they do not depend
        on the others."""
        if self.settings.layer != 0:
            return None
        network, device = self._load_network(), self.anchor.device
        ids = torch.arange(text_config(self._load_config()).vocab_size, device=device)[:, None]
        # Of an encoder without numbered places a token has the same features everywhere.
        numbered = "position_ids" in inspect.signature(network.forward).parameters
        found = []
        for rows in ids.split(ENTRIES_AT_A_TIME):
            places = {"position_ids": torch.full_like(rows, place)} if numbered else {}
            found.append(self._states(network, rows, torch.ones_like(rows), **places)[:, 0] * self.scale)
        return torch.cat(found)

    def from_entries(self, numbers: Sequence[Sequence[int]]) -> list[str]:
        """Texts of tokens, by their numbers in the vocabulary; without special ones, and without what is below 0."""
        tokenizer = self._load_tokenizer()
        kept = ([own for own in row if own >= 0] for row in numbers)
        return [" ".join(tokenizer.decode(row, skip_special_tokens=True).split()) for row in kept]

    def digest(self) -> str:
        """Hexadecimal digest of a local encoder's files by name, size and both ends; empty for a hub name."""
        return files_digest(find_encoder(self.settings.path))

    def unload(self) -> None:
        """Drops the network; the next `encode` reads it again."""
        self.network = None

    def _states(self, network: nn.Module, ids: Tensor, mask: Tensor | None, **places: Tensor) -> Tensor:
        # Switches an outer autocast off, so that features do not depend on who asks for them.
        with torch.autocast(ids.device.type, enabled=False):
            every = self.settings.layer != -1 and _layers_of(network) is None
            output = network(input_ids=ids, attention_mask=mask, output_hidden_states=every, **places)
        # Of an encoder without the layers that nobody asked for, the last state is the one asked for.
        if self.settings.layer == -1 or _layers_of(network) is not None:
            return output.last_hidden_state.float()
        return output.hidden_states[self.settings.layer].float()

    def _drop_unused_layers(self, network: nn.Module) -> None:
        """Leaves only the layers that the state asked for has gone through, where no norm follows the last one."""
        layers = _layers_of(network)
        if layers is not None:
            first_unused = range(len(layers) + 1)[self.settings.layer]
            del layers[first_unused:]

    # -- loading ---------------------------------------------------------------------------------------------

    def _load_config(self) -> Any:
        if self._config is None:
            config = load_config(find_encoder(self.settings.path))
            self._check(text_config(config))
            self._config = config
        return self._config

    def _load_tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(find_encoder(self.settings.path))
        return self._tokenizer

    def _load_network(self) -> nn.Module:
        if self.network is None:
            dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
            network = load_network(find_encoder(self.settings.path), self._load_config(), dtype)
            self._drop_unused_layers(network)
            self.network = network.to(self.anchor.device)
        return self.network

    def _check(self, config: Any) -> None:
        """Raises BridgeflowError where the settings do not suit the encoder of this configuration."""
        settings = self.settings
        if settings.width not in (None, config.hidden_size):
            raise BridgeflowError(
                f"the text encoder {self.title} has a hidden size of {config.hidden_size}, but width is "
                f"{settings.width}: set width to {config.hidden_size}, or choose the encoder that was meant."
            )
        limit = _most_tokens(config)
        if settings.max_length > limit:
            raise BridgeflowError(
                f"the text encoder {self.title} takes at most {limit} tokens, but max_length is "
                f"{settings.max_length}: lower it."
            )
        layers = config.num_hidden_layers
        if not -layers - 1 <= settings.layer <= layers:
            raise BridgeflowError(
                f"the text encoder {self.title} has hidden states 0 to {layers}, but layer is "
                f"{settings.layer}: choose one of them, or -1 for the output."
            )


def _most_tokens(config: Any) -> int:
    """Tokens that the encoder of a configuration takes."""
    return getattr(config, "max_position_embeddings", None) or MOST_TOKENS


def _layers_of(network: nn.Module) -> nn.ModuleList | None:
    """The layers of a BERT-like encoder, the output of the last of which is the encoder's; None for any other."""
    if getattr(network.config, "model_type", None) != "bert":
        return None
    layers = getattr(getattr(network, "encoder", None), "layer", None)
    return layers if isinstance(layers, nn.ModuleList) else None
