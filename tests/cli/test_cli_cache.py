"""`bridgeflow cache`: made, looked at, trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[..., Any]

TINY = ["network.channels=[8,8]", "network.blocks=1", "training.precision=fp32", "training.batch_size=2"]


def test_a_cache_is_made_looked_at_and_trained_on(bridgeflow: Call, photos: Path) -> None:
    line = ["--task", "superres", "--data", f"folder:{photos}", "-o", "latents", "source.size=16", "target.size=16"]
    made = bridgeflow("cache", *line, "options.overlap=1", *TINY, "--variants", "2", "--shard-rows", "3")
    assert made.code == 0
    assert "broken.png" in made.err
    assert "next: bridgeflow train --task superres --data cache:latents" in made.err
    facts = json.loads(bridgeflow("cache", "info", "latents", "--json").out)
    assert (facts["train"]["rows"] + facts["held_out"]["rows"], facts["variants"]) == (6, 2)
    assert facts["train"]["shards"] == 2
    assert facts["target"]["shape"] == [3, 16, 16]
    shown = bridgeflow("cache", "info", "latents")
    assert "grid 3x16x16" in shown.out
    assert "variants 2" in shown.out
    verified = bridgeflow("cache", "verify", "latents")
    assert (verified.code, verified.out) == (0, "latents: 3 shards, 0 with a fault\n")
    trained = bridgeflow("train", "--task", "superres", "--data", "cache:latents", "training.steps=2", "--json")
    assert trained.code == 0, trained.err
    assert Path("runs/superres-folder-01/checkpoints/000002/model.safetensors").is_file()
    shard = Path("latents/train/000001.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    verified = bridgeflow("cache", "verify", "latents")
    assert verified.code == 1
    assert "latents/train/000001.safetensors is not what was written" in verified.out


def test_what_cannot_be_is_one_sentence(bridgeflow: Call, photos: Path) -> None:
    for line, code, part in (
        (["cache", "-o", "latents"], 2, "Missing option '--task'. See: bridgeflow cache --help."),
        (["cache", "--task", "depth"], 2, "Missing option '-o'"),
        (["cache", "inf", "latents"], 2, "no command 'inf'. Did you mean 'info'? Commands: info, verify."),
        (["cache", "info", "latents"], 1, "there is no cache in 'latents': make one with bridgeflow cache"),
        (["cache", "verify", "latents"], 1, "there is no cache in 'latents'"),
        (["cache", "--task", "depht", "-o", "latents"], 2, "Did you mean 'depth'?"),
        (["train", "--task", "depth", "--data", "cache:latents"], 1, "there is no cache in 'latents'"),
        (["train", "--task", "depth", "--data", "cache"], 2, "data.path: this key is required"),
        (["cache", "--task", "superres", "--data", f"folder:{photos}", "-o", str(photos / "0.png")], 2, "is a file"),
    ):
        outcome = bridgeflow(*line)
        assert part in " ".join(outcome.err.split()), (line, outcome.err)
        assert outcome.code == code, (line, outcome.err)
        assert outcome.err.count("bridgeflow: ") == 1
