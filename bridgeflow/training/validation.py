"""val/loss: the flow loss on held-out pairs, always the same ones at the same times with the same draws.

It says whether a run still learns what generalises to what it has not seen. The training is the same, bit for bit,
with it and without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.data.encoding import latent
from bridgeflow.data.pairs import Batch, Pair, check_pair, collated, describe_row, read_pairs
from bridgeflow.data.rows import EncodedRows, Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.flow.objective import FlowMatching
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.modality import Latent
from bridgeflow.runtime.randomness import Randomness, generator

LOSS = "val/loss"
TIMES = tuple(round(0.05 + 0.1 * place, 2) for place in range(10))
"""Times at which every pair is looked at."""
BINS = 5
"""Equal parts of the path that have a figure of their own."""


Autocast = Callable[[], AbstractContextManager[None]]
"""Computes in the dtype of a training what is computed inside."""


class FixedTime(TimeSchedule):
    """A schedule whose every training time is the same; the weight of the loss there is the schedule's own."""

    at: float

    def sample(self, count: int, randomness: Randomness = None) -> Tensor:
        """`count` times that time."""
        return torch.full((count,), self.at)


class Encoded(NamedTuple):
    """Latents of held-out pairs, kept on the CPU. first: the number of the first of them."""

    first: int
    source: Latent
    target: Latent


class Validation:
    """Measures the flow loss on held-out pairs, which are encoded when it is first asked for."""

    def __init__(self, assembly: Assembly, batches: list[list[Pair]] | list[Batch], autocast: Autocast) -> None:
        """batches: pairs or latents, as `read_held_out` gives them. autocast: the dtype of the training."""
        self.assembly = assembly
        self.autocast = autocast
        self._waiting = batches
        self._encoded: list[Encoded] = []

    @torch.no_grad()
    def __call__(self, bridge: Bridge) -> dict[str, float]:
        """val/loss, and that of each part of the path, of a bridge that is ready for results. A figure that is not
        finite is left out."""
        device = next(bridge.parameters()).device
        with _random_state_kept(device), self.autocast():
            if self._waiting:
                self._encode(device)
            losses = torch.zeros(len(TIMES), dtype=torch.float64)
            count = 0
            for batch in self._encoded:
                losses += len(batch.target) * self._losses(bridge, batch, device).cpu()
                count += len(batch.target)
        return {name: value for name, value in _figures((losses / count).tolist()) if math.isfinite(value)}

    def _losses(self, bridge: Bridge, batch: Encoded, device: torch.device) -> Tensor:
        """The mean loss over some pairs at each time."""
        source, target = batch.source.to(device), batch.target.to(device)
        rows = [generator("validation", batch.first + row) for row in range(len(target))]
        encoded = bridge.source_encoder(source, rows)
        if target.start is not None:
            encoded = replace(encoded, z0=target.start)
        z1 = target.sample(rows)
        null = torch.zeros(len(target), dtype=torch.bool, device=device)
        own = bridge.settings.time.model_dump()
        times = [FixedTime(**own, at=time) for time in TIMES]
        # Objectives of averages divide a row's error by itself; at one time what they teach is the velocity.
        objective = FlowMatching() if bridge.settings.objective.second_time else None
        losses = [
            bridge.flow_loss(encoded, z1, null, target.mask, time, rows, objective=objective).double() for time in times
        ]
        return torch.stack(losses)

    def _encode(self, device: torch.device) -> None:
        """Encodes what waits for it."""
        first, cpu = 0, torch.device("cpu")
        for own in self._waiting:
            batch = own if isinstance(own, Batch) else collated(self.assembly.task, own)
            source = latent(self.assembly.source, batch.source, device)
            target = latent(self.assembly.target, batch.target, device)
            self._encoded.append(Encoded(first, source.to(cpu), target.to(cpu)))
            first += len(target)
        self._waiting = []


def _figures(losses: list[float]) -> Iterator[tuple[str, float]]:
    yield LOSS, math.fsum(losses) / len(losses)
    size = len(losses) // BINS
    for place in range(BINS):
        own = losses[place * size : (place + 1) * size]
        yield f"{LOSS}_t{place / BINS:.1f}-{(place + 1) / BINS:.1f}", math.fsum(own) / size


def read_held_out(assembly: Assembly, held_out: Rows | Stream) -> list[list[Pair]] | list[Batch]:
    """The first `training.validation` held-out pairs that can be used, in batches of the training's size; their latents
    where those were encoded before. Nothing where nothing is held out."""
    training = assembly.recipe.training
    size = training.batch_size
    if isinstance(held_out, EncodedRows):
        numbers = range(min(training.validation, len(held_out)))
        parts = [list(numbers[first : first + size]) for first in numbers[::size]]
        return [Batch(*held_out.gather(part, [0] * len(part))) for part in parts]
    pairs = list(_usable(assembly, held_out, training.validation))
    return [pairs[first : first + size] for first in range(0, len(pairs), size)]


def _usable(assembly: Assembly, rows: Rows | Stream, count: int) -> Iterator[Pair]:
    task = assembly.task
    if count == 0:
        return
    # Paired as a cache of the same rows pairs them, so that the figure is the same with it and without.
    for place, found in enumerate(read_pairs(rows, task, assembly.recipe.columns, count)):
        if isinstance(found, BridgeflowError):
            continue
        pair = Pair(found[0], found[1], describe_row(found[2], place))
        try:
            check_pair(task, pair[:2], pair.name)
        except BridgeflowError:
            continue
        yield pair


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Puts torch's random state back afterwards, should a codec or a network draw from it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
