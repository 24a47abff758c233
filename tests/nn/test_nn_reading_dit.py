"""The network that reads its source: what it takes off, its loss, and that it learns words from the start alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.errors import UsageError
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.reading_dit import ReadingDiT, ReadingDiTSettings
from bridgeflow.runtime.randomness import generator

WORDS, GRID = LatentSpec((4, 16), "sequence"), LatentSpec((3, 4, 4), "grid")
SMALL: dict[str, Any] = {"width": 32, "depth": 1, "heads": 4, "spans": 4, "reading_depth": 1}


def network() -> ReadingDiT:
    torch.manual_seed(0)
    built = ReadingDiTSettings(**SMALL).build(GRID)
    assert isinstance(built, ReadingDiT)
    return built


def test_what_is_read_is_taken_off_and_not_seen_again() -> None:
    own, mu = network(), torch.randn(1, *GRID.shape)
    z, t, null = torch.randn(2, *GRID.shape), torch.tensor([0.25, 0.5]), torch.zeros(2, dtype=torch.bool)
    seen: list[Tensor] = []
    own.painter.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    own.reader.register_forward_hook(lambda *_: (mu.expand(2, -1, -1, -1), torch.zeros(2, 4, 32)))
    # A fresh painter gives nothing, so that what is left of the velocity is - mu.
    torch.testing.assert_close(own(z, t, null), -mu.expand(2, -1, -1, -1))
    torch.testing.assert_close(seen[0], z - torch.tensor([0.75, 0.5]).view(2, 1, 1, 1) * mu)


def test_reading_is_a_term_of_the_loss_with_the_weight_of_the_network() -> None:
    totals = {}
    for weight in (0.5, 2.0):
        torch.manual_seed(0)
        settings = BridgeSettings(source_encoder={"name": "local"})
        bridge = Bridge(settings, ReadingDiTSettings(**SMALL, reading_weight=weight), WORDS, GRID)
        losses = bridge(*pair(8), generator("draws"), torch.zeros(8, dtype=torch.bool))
        assert set(losses.terms) == {"flow", "reading"}
        totals[weight] = float((losses.total - losses.terms["flow"]).detach() / losses.terms["reading"])
    assert totals == pytest.approx({0.5: 0.5, 2.0: 2.0})


def pair(rows: int, seed: int = 0) -> tuple[Latent, Latent]:
    """Words of two kinds at four places, and pictures whose rows have a colour for each place."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.randn(2, 16, generator=torch.Generator().manual_seed(7))
    which = torch.randint(2, (rows, 4), generator=random)
    colours = (2.0 * which - 1)[:, None, :, None].expand(rows, 3, 4, 4)
    return Latent(kinds[which]), Latent(colours + 0.1 * torch.randn(rows, 3, 4, 4, generator=random))


def test_it_learns_what_only_the_start_says() -> None:
    settings = BridgeSettings(
        source_encoder={"name": "local", "sigma": 0.6}, time=TimeSchedule(density="uniform"), null_rate=0.0
    )
    torch.manual_seed(0)
    bridge = Bridge(settings, ReadingDiTSettings(**SMALL), WORDS, GRID)
    # 0.97 to 1 of the colours for four seeds; at a rate of 0.01 it depends on how a processor rounds.
    optimizer = torch.optim.AdamW(bridge.parameters(), 3e-3)
    for step in range(250):
        optimizer.zero_grad()
        losses = bridge(*pair(64, step), generator("train", step))
        losses.total.backward()
        optimizer.step()
    source, target = pair(64, 10_000)
    encoded = bridge.eval().encode(source, generator("test"))
    assert encoded.context is None
    mu = encoded.mu
    assert mu is not None
    with torch.no_grad():
        read = bridge.network.read_source(encoded.z0, torch.zeros(64))
        velocity = bridge.velocity(encoded, encoded.z0, torch.zeros(64), torch.zeros(64, dtype=torch.bool))
    # A twentieth of the variance of mu is left, where the noise on it has half as much; and most colours are right.
    assert float((read - mu).square().mean()) < 0.05 * float(mu.square().mean())
    ends = (encoded.z0 + velocity).mean((1, 3)).sign()
    assert float((ends == target.mean.mean((1, 3)).sign()).float().mean()) > 0.95


def test_a_context_and_spans_without_values_are_refused() -> None:
    with pytest.raises(UsageError, match="attends to no context"):
        ReadingDiTSettings(**SMALL).build(GRID, LatentSpec((3, 8), "sequence"))
    with pytest.raises(UsageError, match=r"network.spans is 49, but the latent .* has 48 values"):
        ReadingDiTSettings(**{**SMALL, "spans": 49}).build(GRID)
