"""The network of the text autoencoder: words to a short sequence of latents, and back in one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionBlock(nn.Module):
    """Pre-norm transformer block: attention of `x` to `memory` (to itself where it is None), then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """x: (B, N, width), memory: (B, M, width), already normalised. Returns (B, N, width)."""
        normed = self.norm(x)
        query = self._split(self.query(normed))
        key, value = self.key_value(normed if memory is None else memory).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(query, self._split(key), self._split(value))
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class WordAutoencoder(nn.Module):
    """Word numbers (B, max_words) -> latents (B, length, channels) -> word logits (B, max_words, vocabulary).

    `length` learned queries gather the words, and `max_words` learned queries read them out again: no word
    waits for another, so that decoding is one pass. Each of the length x channels numbers of the latent is
    standardised: with the statistics of the batch while fitting (`standardise`), with those of the fitting
    data, kept in `mean` and `std`, ever after (`encode`).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, vocabulary: int, length: int, channels: int, width: int, layers: int, heads: int, max_words: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.word_position = nn.Parameter(torch.randn(max_words, width) * 0.5)
        self.encoder = nn.ModuleList(AttentionBlock(width, heads) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.latent_query = nn.Parameter(torch.randn(length, width) * 0.5)
        self.gather = AttentionBlock(width, heads)
        self.to_latent = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))

        self.from_latent = nn.Linear(channels, width)
        self.latent_position = nn.Parameter(torch.randn(length, width) * 0.5)
        self.decoder = nn.ModuleList(AttentionBlock(width, heads) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.word_query = nn.Parameter(torch.randn(max_words, width) * 0.5)
        self.read_out = AttentionBlock(width, heads)
        self.out_norm = nn.LayerNorm(width)
        self.out_bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.register_buffer("mean", torch.zeros(length, channels))
        self.register_buffer("std", torch.ones(length, channels))

    def raw(self, words: Tensor) -> Tensor:
        """Latents not yet standardised: (B, max_words) int64 -> (B, length, channels)."""
        x = self.embedding(words) * self.embedding.embedding_dim**0.5 + self.word_position
        for block in self.encoder:
            x = block(x)
        gathered = self.gather(self.latent_query.expand(len(words), -1, -1), self.encoder_norm(x))
        latent: Tensor = self.to_latent(gathered)
        return latent

    def standardise(self, raw: Tensor) -> Tensor:
        """Raw latents with the mean and variance of the batch taken out, as batch normalisation does."""
        return (raw - raw.mean(0)) / (raw.var(0, correction=0) + 1e-5).sqrt()

    def encode(self, words: Tensor) -> Tensor:
        """Latents (B, length, channels), of mean 0 and variance 1 in every number over the fitting data."""
        return (self.raw(words) - self.mean) / self.std

    def read(self, latent: Tensor) -> Tensor:
        """What the decoder has to say on every word: (B, length, channels) -> (B, max_words, width)."""
        x = self.from_latent(latent) + self.latent_position
        for block in self.decoder:
            x = block(x)
        words: Tensor = self.read_out(self.word_query.expand(len(latent), -1, -1), self.decoder_norm(x))
        return self.out_norm(words)

    def logits(self, read: Tensor) -> Tensor:
        """Scores of every word, (..., width) -> (..., vocabulary), by the embedding of the input."""
        return F.linear(read, self.embedding.weight, self.out_bias)
