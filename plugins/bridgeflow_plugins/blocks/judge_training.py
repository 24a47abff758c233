"""Trains the judge: `make train-judge`, about ten minutes on one core.

Its scenes are those of a seed of their own, so that it never saw what a recipe trains or scores on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bridgeflow_plugins.blocks.judge import WEIGHTS, half_precision
from bridgeflow_plugins.blocks.judge_network import CELLS, STRIDE, JudgeNetwork, Maps
from bridgeflow_plugins.blocks.judge_pictures import (
    IGNORED,
    Scenes,
    Things,
    blob_scenes,
    disturbed,
    drawn_scenes,
    no_scenes,
)

SEED = 640_000_001
"""Of the scenes and of everything drawn."""
SCENES, BLOBS = 24_000, 3_000
STEPS, RATE = 2_600, 4e-3
SHARES = (52, 8, 4)
"""Scenes, pictures of blobs, and pictures of nothing in a batch."""
_WEIGHTS = {"colour": 1.0, "shape": 1.5, "size": 1.0, "place": 2.0}
"""Of the terms of the loss; shapes and places are what is hard to tell."""
_SPREAD = 0.9
"""Standard deviation of the heat around a middle, in cells."""


def loss_of(maps: Maps, things: Things) -> dict[str, Tensor]:
    """The terms of the loss. The heat's is the focal loss of CornerNet (Law and Deng, arXiv 1808.01244, equation 1);
    what stands in a cell is learned in the cell of its middle and the eight around it."""
    middle = things.middle / STRIDE
    steps = torch.arange(CELLS, dtype=torch.float32) + 0.5
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    cells = torch.stack([columns, rows], -1)
    away = middle[:, :, None, None] - cells
    distance = away.square().sum(-1).nan_to_num(nan=torch.inf)
    nearest, owner = distance.min(1)
    home = (away.abs().amax(-1).nan_to_num(nan=torch.inf) <= 0.5).any(1)
    terms = {"heat": _focal(maps.heat[:, 0], torch.exp(-nearest / (2 * _SPREAD**2)), home)}

    batch, row, column = (nearest <= 2.5).nonzero(as_tuple=True)
    one = owner[batch, row, column]
    weight = torch.exp(-nearest[batch, row, column] / 2)

    def mean(values: Tensor, counted: Tensor) -> Tensor:
        return (values * weight * counted).sum() / (weight * counted).sum().clamp(min=1)

    everything = torch.ones_like(weight)
    offset = maps.offset[batch, :, row, column] - away[batch, one, row, column]
    terms["offset"] = mean(offset.abs().sum(1), everything)
    for name in ("colour", "shape", "size"):
        truth = getattr(things, name)[batch, one]
        entropy = F.cross_entropy(getattr(maps, name)[batch, :, row, column], truth.clamp(min=0), reduction="none")
        terms[name] = _WEIGHTS[name] * mean(entropy, (truth != IGNORED).float())
    place = things.place[batch, one]
    error = F.smooth_l1_loss(maps.place[batch, :, row, column], place.nan_to_num(), beta=0.1, reduction="none").sum(1)
    terms["place"] = _WEIGHTS["place"] * mean(error, place.isfinite().all(1).float())
    return terms


def _focal(logits: Tensor, truth: Tensor, home: Tensor) -> Tensor:
    chance = logits.sigmoid()
    hit = -F.logsigmoid(logits) * (1 - chance).square() * home
    miss = -F.logsigmoid(-logits) * chance.square() * (1 - truth) ** 4 * ~home
    return (hit.sum() + miss.sum()) / home.sum().clamp(min=1)


def train(scenes: Scenes, blobs: Scenes, steps: int, seed: int = SEED) -> JudgeNetwork:
    """A network that learned for so many steps; says how it fares on stderr."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = JudgeNetwork().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        pictures, truth = _batch(scenes, blobs, random)
        with torch.autocast("cpu", torch.bfloat16):
            maps = network(pictures)
        terms = loss_of(maps, truth)
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            parts = "  ".join(f"{name} {value.item():.3f}" for name, value in terms.items())
            print(f"{step:5}/{steps}  {time.perf_counter() - started:4.0f} s  {parts}", file=sys.stderr, flush=True)
    return network.eval()


def _batch(scenes: Scenes, blobs: Scenes, random: torch.Generator) -> tuple[Tensor, Things]:
    """Pictures (B, 3, 64, 64) in [-1, 1], SHARES of each kind, and what they show."""

    def some(of: Scenes, count: int) -> tuple[Tensor, Things]:
        return disturbed(of.rows(torch.randint(len(of.pictures), (count,), generator=random)), random)

    (drawn, solids), (painted, spots) = some(scenes, SHARES[0]), some(blobs, SHARES[1])
    pictures = torch.cat([drawn, painted, no_scenes(scenes.pictures, SHARES[2], random)])
    things = solids.followed_by(spots).followed_by(Things.none(SHARES[2]))
    return pictures.contiguous(memory_format=torch.channels_last), things


def main() -> None:
    """Trains the judge that is installed with bridgeflow, into the file named first or over the one in the tree."""
    from safetensors.torch import save_file

    path = Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS
    started = time.perf_counter()
    scenes, blobs = drawn_scenes(SEED, "train", SCENES), blob_scenes(SEED, BLOBS)
    print(f"{SCENES + BLOBS:,} pictures in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    save_file(half_precision(train(scenes, blobs, STEPS)), path)
    minutes = (time.perf_counter() - started) / 60
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB, {minutes:.1f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()
