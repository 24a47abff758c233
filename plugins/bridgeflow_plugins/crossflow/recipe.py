"""The recipe of a published network: its sizes, and how the public implementation trains and samples it."""

from __future__ import annotations

from typing import Literal

from bridgeflow.config.layers import Tree
from bridgeflow.errors import UsageError
from bridgeflow_plugins.crossflow.keys import Head
from bridgeflow_plugins.crossflow.layout import DiMRLayout, EncoderLayout, Layout

Precision = Literal["fp32", "bf16"]

Tower = tuple[str, int, Head]
"""Name in timm, size in pixels and head of the image tower."""

HEAD_WIDTH = 64
"""Features of an attention head in every published velocity network."""

ENCODER_HEADS = 8
"""Attention heads in every layer of the published text encoders."""

VAE_SCALE = 0.2301
"""Factor on the autoencoder's latent; not the 0.18215 of its own configuration."""

T5_SCALE = 10.0
"""Factor on the features of T5."""

STAGE_WEIGHTS = {2: [0.25, 1.0], 3: [0.25, 0.5, 1.0]}
"""Weights of the stages' flow losses, by how many stages there are."""

LEARNING_RATES = {"256px_clip_dimr": 1e-5, "256px_t5_dimr": 5e-5, "512px_t5_dit": 2e-5}
"""Peak learning rates; 1e-5 for the others."""


def velocity_heads(width: int, given: int | None) -> int:
    """Attention heads of a velocity network of that width: those given, or 64 features each where that divides.

    Raises UsageError where they do not divide the width.
    """
    if given is not None and width % given:
        raise UsageError(f"--heads {given} does not divide the network's width of {width}: give a divisor of it.")
    return given or next(n for n in range(max(1, width // HEAD_WIDTH), 0, -1) if width % n == 0)


def encoder_heads(encoder: EncoderLayout, given: int | None) -> int:
    """Attention heads of the text encoder's layers: those given, or the most up to 8 that divide every width."""
    widths = [encoder.inner >> n for n in range(max(1, encoder.narrowings))]
    if given is not None and any(width % given for width in widths):
        raise UsageError(f"--encoder-heads {given} does not divide the layers' widths {widths}: give a divisor of all.")
    return given or next(n for n in range(ENCODER_HEADS, 0, -1) if not any(width % n for width in widths))


def _network(layout: Layout, heads: int | None) -> Tree:
    network = layout.network
    if not isinstance(network, DiMRLayout):
        return {
            "name": "dit",
            "width": network.width,
            "depth": network.depth,
            "heads": velocity_heads(network.width, heads),
            "mlp_ratio": network.hidden / network.width,
            "patch": network.patch,
            "indicator": "embedding",
            "time_scale": 1.0,
            "time_features": network.time_features,
        }
    stages = []
    for own in network.stages:
        stage = {"kind": own.kind, "width": own.width, "hidden": own.hidden, "blocks": own.blocks, "patch": own.patch}
        if own.kind == "transformer":
            stage["heads"] = velocity_heads(own.width, heads)
        stages.append(stage)
    halvings = [2.0**-n for n in reversed(range(len(stages)))]
    return {"name": "dimr", "stages": stages, "stage_weights": STAGE_WEIGHTS.get(len(stages), halvings)}


def _encoding(tower: Tower | None) -> Tree:
    if tower is None:
        return {"name": "none"}
    model, size, head = tower
    own = {"name": "timm", "model": model, "size": size, "head": head}
    return {"name": "cross", "weight": 1.0, "logit_scale": "raw", "tower": own}


def _frozen(layout: Layout, text: str, vae: str, factor: int, precision: Precision) -> Tree:
    encoder = layout.encoder
    return {
        "source": {
            "codec": {
                "name": "encoder",
                "path": text,
                "max_length": encoder.tokens,
                "width": encoder.width,
                "scale": T5_SCALE if encoder.compress else 1.0,
                "padding": "encoded",
                "precision": precision,
            }
        },
        "target": {
            "size": factor * layout.side,
            "codec": {
                "name": "kl",
                "path": vae,
                "scale": VAE_SCALE,
                "factor": factor,
                "latent_channels": layout.channels,
            },
        },
    }


def _training(layout: Layout, precision: Precision) -> Tree:
    dimr_512 = isinstance(layout.network, DiMRLayout) and layout.side == 64
    return {
        "data": {"name": "folder", "path": "data"},
        "time": {"density": "logit_normal", "grid": "endpoints"},
        "kl": {"weight": 1e-2, "form": "free_mean", "reduction": "sum"},
        "null_rate": 0.15 if dimr_512 else 0.1,
        "optimizer": {
            "name": "adamw",
            "learning_rate": LEARNING_RATES.get(layout.published_as or "", 1e-5),
            "betas": [0.9, 0.9],
            "weight_decay": 0.03,
        },
        "training": {
            "steps": 1_000_000,
            # 1024 pairs an optimiser step, as published.
            "batch_size": 32,
            "accumulation": 32,
            "seed": 1234,
            "precision": "bf16" if precision == "bf16" else "auto",
            "ema": 0.9999,
            "clip": None,
            "schedule": {"warmup": 5000, "decay": "constant"},
        },
    }


def recipe_tree(
    layout: Layout,
    text: str,
    vae: str,
    factor: int,
    precision: Precision = "fp32",
    heads: int | None = None,
    text_heads: int | None = None,
    tower: Tower | None = None,
) -> Tree:
    """The recipe as a tree of keys.

    text, vae: folders or hub names of the frozen parts. factor: pixels along each side of a cell of the latent.
    heads, text_heads: attention heads of the velocity network and of the text encoder; None for what is usual.
    tower: the image tower, where it is kept.
    """
    encoder = layout.encoder
    return {
        "task": "t2i",
        **_frozen(layout, text, vae, factor, precision),
        "source_encoder": {
            "name": "narrowing",
            "depth": encoder.depth,
            "narrowings": encoder.narrowings,
            "heads": encoder_heads(encoder, text_heads),
            "hidden": encoder.hidden,
            "compress": encoder.compress,
            "tail": encoder.tail,
            "dropout": 0.1,
        },
        "network": _network(layout, heads),
        "encoding": _encoding(tower),
        **_training(layout, precision),
        "sampling": {
            "solver": {"name": "euler", "steps": 50},
            "guidance": {"name": "indicator", "scale": 7.0},
            "batch_size": 8,
        },
    }
