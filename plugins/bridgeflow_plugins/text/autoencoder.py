"""Text as a target: an autoencoder of words, fitted to the texts at hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Progress
from bridgeflow.settings import Settings
from bridgeflow_plugins.text.cutting import advise_on_length
from bridgeflow_plugins.text.network import WordAutoencoder
from bridgeflow_plugins.text.vocabulary import PAD_ID, UNKNOWN_ID, Vocabulary, detokenise, tokenise

HELD_OUT_FROM = 50
"""From this many texts on, a tenth is kept out of fitting and gives the figures."""
UNKNOWN_RATE = 0.01
"""Share of the words that fitting replaces by `<unk>`, which a complete vocabulary would never meet."""
MOST_WORDS = 512
"""Words of a text at most."""
CHUNK = 256
"""Texts that are encoded or decoded at a time, to bound the memory that word scores take."""


class AutoencoderCodec(Settings):
    """An autoencoder of words with a latent of (length, channels); it is fitted to data before training."""

    name: Literal["autoencoder"] = "autoencoder"
    length: int = Field(16, ge=1, le=1024)
    """Positions of the latent."""
    channels: int = Field(8, ge=1, le=1024)
    """Numbers at each position of the latent."""
    width: int = Field(128, ge=8)
    """Features at each position inside the network; a multiple of `heads`."""
    layers: int = Field(2, ge=1, le=24)
    """Self-attention layers of the encoder, and as many of the decoder."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    max_words: int = Field(24, ge=1, le=MOST_WORDS)
    """Words and punctuation marks that a text may have; what follows is cut."""
    min_count: int = Field(1, ge=1)
    """Occurrences that a word needs to enter the vocabulary; rarer ones become `<unk>` and decode to it."""
    vocabulary_size: int = Field(8192, ge=3)
    """Most words of the vocabulary, the frequent ones first, `<pad>` and `<unk>` included."""
    noise: float = Field(0.05, ge=0)
    """Standard deviation of the noise on the latent (of variance 1) while fitting: errors to forgive. A code that
    survives much can be read off states halfway, and then the smallest times alone teach a source encoder."""
    steps: int = Field(300, ge=1)
    """Optimiser steps of fitting: 300 suit captions of few words, a vocabulary of thousands needs many more."""
    batch_size: int = Field(64, ge=1)
    """Texts at each step of fitting."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of AdamW; a short warm-up, then half a cosine to zero."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return self

    def build(self) -> TextAutoencoder:
        """The codec, not fitted yet."""
        return TextAutoencoder(self)


class TextAutoencoder(nn.Module):
    """Codec between texts and latents (B, length, channels) that `fit` makes from texts."""

    anchor: Tensor

    def __init__(self, settings: AutoencoderCodec) -> None:
        super().__init__()
        self.settings = settings
        self.network: WordAutoencoder | None = None
        self.vocabulary: Vocabulary | None = None
        # Says where the module lies before there is a network.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    @property
    def spec(self) -> LatentSpec:
        """(length, channels), known before fitting."""
        return LatentSpec((self.settings.length, self.settings.channels), "sequence")

    def collate(self, items: Sequence[str]) -> dict[str, Tensor]:
        """`words`: (B, max_words) int64, padded with 0."""
        _, vocabulary = self._fitted()
        return {"words": self._numbers(items, vocabulary)}

    def advise(self, items: Iterable[str], side: str) -> list[str]:
        """A sentence on texts of more than `max_words` words, where there are any."""
        limit = self.settings.max_words

        def fix(longest: int) -> str:
            most = min(longest, MOST_WORDS)
            if limit >= most:
                return f"{side}.codec.max_words takes no more"
            return f"train with {side}.codec.max_words={most} to read more"

        def read(text: str) -> str:
            return detokenise(tokenise(text)[:limit])

        return advise_on_length(
            items, lambda text: len(tokenise(text)), read, limit, "words and punctuation marks", fix
        )

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """Latents (B, length, channels), every number of mean 0 and variance 1 over the fitting data."""
        network, _ = self._fitted()
        words = batch["words"].to(self.anchor.device)
        return Latent(torch.cat([network.encode(chunk) for chunk in words.split(CHUNK)]).float())

    def decode(self, latent: Tensor) -> list[str]:
        """The most likely words of latents (B, length, channels), up to the first padding."""
        network, vocabulary = self._fitted()
        if latent.shape[1:] != self.spec.shape:
            raise BridgeflowError(
                f"the text autoencoder decodes latents of shape (B, {self.settings.length}, "
                f"{self.settings.channels}), not {tuple(latent.shape)}: train the network for this codec."
            )
        latent = latent.to(self.anchor.device, torch.float32)
        best = torch.cat([network.logits(network.read(chunk)).argmax(-1) for chunk in latent.split(CHUNK)])
        return [vocabulary.decode(numbers) for numbers in best.tolist()]

    # -- fitting ---------------------------------------------------------------------------------------------

    def fit(self, items: Iterable[str], progress: Progress | None = None) -> dict[str, float]:
        """Builds the vocabulary and fits the network.

        Returns figures on a held-out tenth (on all texts where there are fewer than 50): `exact`, the share
        of texts that come back whole; `exact_with_noise`, the same with noise of std `noise` on the latent;
        `token_accuracy`, the share of words; and over all texts `truncated`, words cut by `max_words`, and
        `unknown`, words that are not in the vocabulary. Follows `torch.manual_seed` and leaves the global
        random state as it was.
        """
        texts = list(items)
        device = self.anchor.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
            order = torch.randperm(len(texts)).tolist()
            held_out = len(texts) // 10 if len(texts) >= HELD_OUT_FROM else 0
            train = [texts[i] for i in order[held_out:]]
            vocabulary = Vocabulary.of(
                train, self.settings.min_count, self.settings.vocabulary_size, self.settings.max_words
            )
            if len(vocabulary) == 2:
                raise BridgeflowError(
                    f"the text autoencoder found no word to fit in {len(texts)} texts: give texts with "
                    f"words, or lower min_count ({self.settings.min_count})."
                )
            network = self._network(len(vocabulary)).to(device)
            words = self._numbers(train, vocabulary).to(device)
            self._optimise(network, words, progress)
            self._measure_statistics(network, words)
            self._take(network, vocabulary)
            return self._figures([texts[i] for i in order[:held_out]] or train, texts)

    def _optimise(self, network: WordAutoencoder, words: Tensor, progress: Progress | None) -> None:
        settings = self.settings
        optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.01)
        warm_up = max(1, settings.steps // 20)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / settings.steps))),
        )
        size = min(settings.batch_size, len(words))
        order = torch.empty(0, dtype=torch.int64)
        for step in range(settings.steps):
            if len(order) < size:
                order = torch.randperm(len(words))
            chosen, order = order[:size], order[size:]
            loss = self._loss(network, words[chosen.to(words.device)])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, settings.steps, "fitting the text autoencoder")

    def _loss(self, network: WordAutoencoder, words: Tensor) -> Tensor:
        """Cross-entropy of the words up to and with the first padding, which ends the text."""
        unknown = torch.rand(words.shape, device=words.device) < UNKNOWN_RATE
        words = words.masked_fill(unknown & (words != PAD_ID), UNKNOWN_ID)
        latent = network.standardise(network.raw(words))
        read = network.read(latent + self.settings.noise * torch.randn_like(latent))
        counted = _counted(words)
        return F.cross_entropy(network.logits(read[counted]), words[counted])

    @torch.no_grad()
    def _measure_statistics(self, network: WordAutoencoder, words: Tensor) -> None:
        raw = torch.cat([network.raw(chunk) for chunk in words.split(CHUNK)]).double()
        network.mean.copy_(raw.mean(0))
        network.std.copy_((raw.var(0, correction=0) + 1e-5).sqrt())

    @torch.no_grad()
    def _figures(self, held_out: list[str], texts: list[str]) -> dict[str, float]:
        network, vocabulary = self._fitted()
        settings = self.settings
        known = set(vocabulary.words)
        exact = noisy = right = counted = 0
        for start in range(0, len(held_out), CHUNK):
            chunk = held_out[start : start + CHUNK]
            words = self._numbers(chunk, vocabulary).to(self.anchor.device)
            whole = [len(t) <= settings.max_words and known.issuperset(t) for t in map(tokenise, chunk)]
            whole_texts = torch.tensor(whole, device=words.device)
            latent = network.encode(words)
            hits = [
                (network.logits(network.read(z)).argmax(-1) == words) | ~_counted(words)
                for z in (latent, latent + settings.noise * torch.randn_like(latent))
            ]
            exact += int((hits[0].all(1) & whole_texts).sum())
            noisy += int((hits[1].all(1) & whole_texts).sum())
            right += int((hits[0] & _counted(words)).sum())
            counted += int(_counted(words).sum())
        tokens = [tokenise(text) for text in texts]
        return {
            "exact": exact / len(held_out),
            "exact_with_noise": noisy / len(held_out),
            "token_accuracy": right / counted,
            "truncated": float(sum(max(0, len(t) - settings.max_words) for t in tokens)),
            "unknown": float(sum(word not in known for t in tokens for word in t[: settings.max_words])),
        }

    # -- what fitting made -----------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Copies of the network's tensors and statistics on the CPU; empty before fitting."""
        if self.network is None:
            return {}
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def facts(self) -> dict[str, Any]:
        """`vocabulary`: the words in order; empty before fitting."""
        return {} if self.vocabulary is None else {"vocabulary": list(self.vocabulary.words)}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes back what `state` and `facts` gave."""
        try:
            vocabulary = Vocabulary(tuple(facts["vocabulary"]))
            with torch.random.fork_rng(devices=[]):
                network = self._network(len(vocabulary))
            network.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BridgeflowError(
                "the fitted state of the text autoencoder does not match its options: use the options it was "
                "fitted with, or fit it again with `bridgeflow fit text --data D`."
            ) from error
        self._take(network.to(self.anchor.device), vocabulary)

    def _take(self, network: WordAutoencoder, vocabulary: Vocabulary) -> None:
        self.network = network.requires_grad_(False).eval()
        # The last gradients of fitting would take as much memory as the weights.
        self.network.zero_grad(set_to_none=True)
        self.vocabulary = vocabulary

    def _fitted(self) -> tuple[WordAutoencoder, Vocabulary]:
        if self.network is None or self.vocabulary is None:
            raise BridgeflowError(
                "the text autoencoder has not been fitted: training fits it before it starts, or run "
                "`bridgeflow fit text --data D`."
            )
        return self.network, self.vocabulary

    def _network(self, vocabulary: int) -> WordAutoencoder:
        s = self.settings
        return WordAutoencoder(vocabulary, s.length, s.channels, s.width, s.layers, s.heads, s.max_words)

    def _numbers(self, texts: Sequence[str], vocabulary: Vocabulary) -> Tensor:
        rows = [vocabulary.encode(text, self.settings.max_words) for text in texts]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), self.settings.max_words)


def _counted(words: Tensor) -> Tensor:
    """True for the words of each text and the first padding after them. words: (B, max_words)."""
    before = (words == PAD_ID).cumsum(1) - (words == PAD_ID).long()
    return before == 0
