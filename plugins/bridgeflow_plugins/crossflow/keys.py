"""Names of the published state dicts and ours: one table, read both ways.

The names on the left are those of the public implementation of CrossFlow (arXiv 2412.15213), whose DiMR stages name
their time-dependent vectors `param0`, `param1`, `nodecay_weight` and `nodecay_bias`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Head = Literal["mlp", "conv"]
Tail = Literal["linear", "conv"]

WORDS: dict[str, dict[str, str]] = {
    "vector": {"param0": "early", "param1": "late", "nodecay_weight": "slope", "nodecay_bias": "offset"},
    "affine": {"weight": "scale", "bias": "shift"},
    "gated": {"w0": "gate", "w1": "value", "w2": "out"},
    "projection": {"W_Q": "query", "W_K": "key", "W_V": "value", "W_O": "out"},
    "mlp": {"ffn_1": "0", "ffn_2": "2"},
    "fc": {"fc1": "0", "fc2": "2"},
    "norm": {"norm1": "norm_attention", "norm2": "norm_mlp"},
    "gain": {"g": "weight", "b": "bias"},
    "compress": {"fc1": "linear_in", "ln_fc1": "norm", "fc2": "linear_out"},
    "linears": {"fc1": "linear_in", "norm": "norm", "fc2": "linear_out"},
    "convolutions": {
        "fc1": "linear_in",
        "ln_fc1": "norm_in",
        "fc2": "linear",
        "ln_fc2": "norm",
        "conv1": "conv_in",
        "ln_conv1": "norm_conv_in",
        "conv2": "conv",
        "ln_conv2": "norm_conv",
        "conv3": "conv_out",
    },
}
"""Placeholders of a template whose word changes: published -> ours."""

PATTERNS = {"k": r"\d+", "i": r"\d+", "w": "weight|bias", "rest": r".+"}
"""Placeholders of a template whose text stays."""

DIMR = (
    ("stages.{k}.tensor_true", "stages.{k}.indicator_null"),
    ("stages.{k}.tensor_false", "stages.{k}.indicator_conditional"),
    ("stages.{k}.input_layer.1.{w}", "stages.{k}.embed.{w}"),
    ("stages.{k}.input_layer.3.position_embeddings.weight", "stages.{k}.positions"),
    ("stages.{k}.upsample.0.{affine}.{vector}", "stages.{k}.upsample.norm_in.{affine}.{vector}"),
    ("stages.{k}.upsample.1.kernel.{w}", "stages.{k}.upsample.linear.{w}"),
    ("stages.{k}.upsample.2.{affine}.{vector}", "stages.{k}.upsample.norm_out.{affine}.{vector}"),
    ("stages.{k}.blocks.{i}.block1.norm.scale.{vector}", "stages.{k}.blocks.{i}.norm_attention.scale.{vector}"),
    ("stages.{k}.blocks.{i}.block1.query_key_value.weight", "stages.{k}.blocks.{i}.attention.qkv.weight"),
    ("stages.{k}.blocks.{i}.block1.dense.{w}", "stages.{k}.blocks.{i}.attention.out.{w}"),
    ("stages.{k}.blocks.{i}.block1.1.{w}", "stages.{k}.blocks.{i}.depthwise.{w}"),
    ("stages.{k}.blocks.{i}.block2.norm.scale.{vector}", "stages.{k}.blocks.{i}.norm_mlp.scale.{vector}"),
    ("stages.{k}.blocks.{i}.block2.{gated}.{w}", "stages.{k}.blocks.{i}.mlp.{gated}.{w}"),
    ("stages.{k}.skip_denses.{i}.{w}", "stages.{k}.skips.{i}.{w}"),
    ("stages.{k}.output_layer.0.{affine}.{vector}", "stages.{k}.norm_out.{affine}.{vector}"),
    ("stages.{k}.output_layer.2.{w}", "stages.{k}.head.{w}"),
)

DIT = (
    ("pos_embed", "positions"),
    ("x_embedder.proj.{w}", "embed.{w}"),
    ("t_embedder.mlp.{i}.{w}", "conditioning.time.mlp.{i}.{w}"),
    ("y_embedder.embedding_table.weight", "conditioning.indicator.weight"),
    ("blocks.{i}.attn.qkv.{w}", "blocks.{i}.attention.qkv.{w}"),
    ("blocks.{i}.attn.proj.{w}", "blocks.{i}.attention.out.{w}"),
    ("blocks.{i}.mlp.{fc}.{w}", "blocks.{i}.mlp.{fc}.{w}"),
    ("blocks.{i}.adaLN_modulation.1.{w}", "blocks.{i}.modulation.1.{w}"),
    ("final_layer.adaLN_modulation.1.{w}", "modulation.1.{w}"),
    ("final_layer.linear.{w}", "head.{w}"),
)

LAYER = (
    ("attn.{projection}.{w}", "attention.{projection}.{w}"),
    ("feed_forward.{mlp}.{w}", "mlp.{mlp}.{w}"),
    ("{norm}.{gain}", "{norm}.{gain}"),
)

ENCODER = (
    ("compressor.{compress}.{w}", "compress.{compress}.{w}"),
    *((f"layers.{{i}}.{published}", f"layers.{{i}}.{ours}") for published, ours in LAYER),
    *((f"reduction_layers.{{i}}.{published}", f"narrowings.{{i}}.layer.{ours}") for published, ours in LAYER),
    ("reduction_layers.{i}.reduction.{w}", "narrowings.{i}.narrow.{w}"),
)

TAILS = {
    "linear": ("context_encoder.linear.{w}", "source_encoder.tail.linear.{w}"),
    "conv": ("context_encoder.adaptor.{convolutions}.{w}", "source_encoder.tail.{convolutions}.{w}"),
}

TOWER = (
    ("open_clip.logit_scale", "encoding_loss.logit_scale"),
    ("open_clip.visual.trunk.{rest}", "encoding_loss.tower.trunk.{rest}"),
)

HEADS = {
    "mlp": ("open_clip_output.{linears}.{w}", "encoding_loss.tower.head.{linears}.{w}"),
    "conv": ("open_clip_output.{convolutions}.{w}", "encoding_loss.tower.head.{convolutions}.{w}"),
}


@dataclass(frozen=True)
class Rule:
    """One line of the table, ready to be read both ways."""

    published: re.Pattern[str]
    published_template: str
    ours: re.Pattern[str]
    ours_template: str

    @classmethod
    def of(cls, published: str, ours: str) -> Rule:
        """The rule of two templates with the same placeholders."""
        return cls(_pattern(published, False), published, _pattern(ours, True), ours)


def _pattern(template: str, ours: bool) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    pattern = re.escape(parts[0])
    for name, literal in zip(parts[1::2], parts[2::2], strict=True):
        words = WORDS.get(name)
        inside = PATTERNS[name] if words is None else "|".join(map(re.escape, words.values() if ours else words))
        pattern += f"(?P<{name}>{inside}){re.escape(literal)}"
    return re.compile(pattern)


def _fill(template: str, match: re.Match[str], ours: bool) -> str:
    found = {}
    for name, text in match.groupdict().items():
        words = WORDS.get(name)
        if words is not None:
            text = words[text] if ours else {own: public for public, own in words.items()}[text]
        found[name] = text
    return template.format(**found)


Reshape = Callable[[Tensor], Tensor]


class KeyMap:
    """The table for one network.

    network: which velocity network the state dict holds. tail, head: the ends of its text encoder and of its image
    tower. channels, patch: of the latent and its patches, by which a DiT's layers are laid out differently.
    """

    def __init__(
        self, network: Literal["dimr", "dit"], tail: Tail, head: Head, channels: int = 4, patch: int = 1
    ) -> None:
        templates = [
            *((published, f"network.{ours}") for published, ours in (DIMR if network == "dimr" else DIT)),
            *((f"context_encoder.{published}", f"source_encoder.{ours}") for published, ours in ENCODER),
            TAILS[tail],
            *TOWER,
            HEADS[head],
        ]
        self.rules = [Rule.of(published, ours) for published, ours in templates]
        self.channels = channels
        self.patch = patch
        self.reshapes: dict[str, tuple[Reshape, Reshape]] = {
            "encoding_loss.logit_scale": (lambda x: x.reshape(1), lambda x: x.reshape(()))
        }
        if network == "dit":
            self.reshapes |= {
                "network.positions": (lambda x: x.squeeze(0), lambda x: x.unsqueeze(0)),
                "network.embed.weight": (lambda x: x.flatten(1), self._kernel),
                "network.head.weight": (self._channels_first, self._channels_last),
                "network.head.bias": (self._channels_first, self._channels_last),
            }

    def our_name(self, key: str) -> str | None:
        """Our name of a published key; None where there is none."""
        for rule in self.rules:
            match = rule.published.fullmatch(key)
            if match is not None:
                return _fill(rule.ours_template, match, True)
        return None

    def published_name(self, key: str) -> str | None:
        """The published name of one of our keys; None where there is none."""
        for rule in self.rules:
            match = rule.ours.fullmatch(key)
            if match is not None:
                return _fill(rule.published_template, match, False)
        return None

    def to_ours(self, key: str, tensor: Tensor) -> tuple[str, Tensor]:
        """Our name and layout of a published tensor; raises KeyError for a key that is none of CrossFlow's."""
        name = self.our_name(key)
        if name is None:
            raise KeyError(key)
        return name, self.reshapes[name][0](tensor) if name in self.reshapes else tensor

    def to_published(self, key: str, tensor: Tensor) -> tuple[str, Tensor]:
        """The published name and layout of one of our tensors; raises KeyError for a key without one."""
        name = self.published_name(key)
        if name is None:
            raise KeyError(key)
        return name, self.reshapes[key][1](tensor) if key in self.reshapes else tensor

    def _kernel(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.channels, self.patch, self.patch))

    def _channels_first(self, x: Tensor) -> Tensor:
        """Rows (row, column, channel) of a patch, as the published head writes them, to (channel, row, column)."""
        rows = x.unflatten(0, (self.patch, self.patch, self.channels))
        return rows.movedim(2, 0).flatten(0, 2)

    def _channels_last(self, x: Tensor) -> Tensor:
        rows = x.unflatten(0, (self.channels, self.patch, self.patch))
        return rows.movedim(0, 2).flatten(0, 2)
