"""Null rows and the targets they take."""

from __future__ import annotations

import itertools

import pytest
import torch

from bridgeflow.flow.coupling import PairedCoupling, draw_null_rows
from bridgeflow.runtime.randomness import generator

BATCHES = [2, 3, 4, 7, 32]
RATES = [0.05, 0.1, 0.5, 0.9, 1.0]
DRAWS = 2000


@pytest.mark.parametrize(("batch", "rate"), [*itertools.product(BATCHES, RATES)])
def test_null_rows_are_never_alone_and_keep_their_rate(batch: int, rate: float) -> None:
    random = generator("null", batch, str(rate))
    rows = torch.stack([draw_null_rows(batch, rate, random) for _ in range(DRAWS)])
    assert rows.shape == (DRAWS, batch)
    assert rows.dtype == torch.bool
    counts = rows.sum(1).double()
    assert not bool((counts == 1).any())
    error = 3 * float(counts.std()) / DRAWS**0.5
    assert float(counts.mean()) == pytest.approx(rate * batch, abs=error + 1e-9)
    per_row = rows.double().mean(0)
    spread = (rate * (1 - rate) / DRAWS) ** 0.5
    assert float((per_row - rate).abs().max()) <= 4.5 * spread


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_a_batch_of_one_has_no_null_row(rate: float) -> None:
    assert draw_null_rows(1, rate, generator(0)).tolist() == [False]


def test_a_rate_of_zero_draws_none() -> None:
    assert not bool(draw_null_rows(32, 0.0, generator(0)).any())


def test_draws_repeat_with_their_generator() -> None:
    first = [draw_null_rows(8, 0.5, generator(seed)).tolist() for seed in range(20)]
    assert first == [draw_null_rows(8, 0.5, generator(seed)).tolist() for seed in range(20)]
    assert len({tuple(row) for row in first}) > 10


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        draw_null_rows(4, rate)


@pytest.mark.parametrize("batch", BATCHES)
def test_null_rows_take_each_others_targets(batch: int) -> None:
    z1 = torch.arange(batch)[:, None, None].expand(batch, 2, 3).float().contiguous()
    before = z1.clone()
    for seed in range(50):
        null = draw_null_rows(batch, 0.6, generator(batch, seed))
        coupled = PairedCoupling().couple(torch.zeros_like(z1), z1, null)(z1)
        torch.testing.assert_close(coupled[~null], z1[~null], rtol=0, atol=0)
        taken, own = coupled[null][:, 0, 0], z1[null][:, 0, 0]
        assert taken.sort().values.tolist() == own.tolist()
        assert not bool((taken == own).any())
        torch.testing.assert_close(coupled, coupled[:, :1, :1].expand_as(coupled), rtol=0, atol=0)
    torch.testing.assert_close(z1, before, rtol=0, atol=0)


def test_a_single_null_row_keeps_its_target() -> None:
    z1 = torch.randn(4, 3)
    null = torch.tensor([False, True, False, False])
    torch.testing.assert_close(PairedCoupling().couple(torch.zeros_like(z1), z1, null)(z1), z1, rtol=0, atol=0)


def test_a_mask_moves_with_its_target() -> None:
    null = torch.tensor([True, False, True, True])
    values = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    mask = torch.tensor([[True], [False], [False], [True]])
    rearranged = PairedCoupling().couple(torch.zeros_like(values), values, null)
    assert rearranged(values).flatten().tolist() == [3.0, 1.0, 0.0, 2.0]
    assert rearranged(mask).flatten().tolist() == [True, False, True, False]
