"""Seeds and draws that depend on their place alone."""

from __future__ import annotations

import pytest
import torch

from bridgeflow.runtime.randomness import generator, normal, seed_of


def test_a_seed_is_the_same_on_every_machine() -> None:
    # The first 8 bytes of SHA-256 of "7/step/3", halved.
    assert seed_of(7, "step", 3) == 1825947944158770574


def test_seeds_differ_by_each_of_their_parts() -> None:
    seeds = {seed_of(a, b, c) for a in range(10) for b in ("step", "weights") for c in range(10)}
    assert len(seeds) == 200
    assert seed_of(1, 23) != seed_of(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_repeats_its_draws() -> None:
    first, again, other = (torch.randn(8, generator=generator(*parts)) for parts in ((1, "a"), (1, "a"), (1, "b")))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)


def test_one_generator_draws_a_whole_batch() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    drawn = normal((3, 4, 5), generator(2), like)
    assert drawn.dtype == torch.float64
    torch.testing.assert_close(drawn, torch.randn(3, 4, 5, generator=generator(2)).double(), rtol=0, atol=0)


def test_a_generator_a_row_keeps_rows_apart() -> None:
    like = torch.zeros(1)
    drawn = normal((3, 4, 5), [generator(n) for n in (5, 6, 7)], like)
    alone = normal((1, 4, 5), [generator(6)], like)
    torch.testing.assert_close(drawn[1:2], alone, rtol=0, atol=0)
    assert float(normal((4000, 1), [generator("many", n) for n in range(4000)], like).std()) == pytest.approx(
        1, abs=0.04
    )


@pytest.mark.parametrize("count", [1, 2, 4])
def test_rows_need_a_generator_each(count: int) -> None:
    with pytest.raises(ValueError, match=f"3 rows need as many generators, not {count}"):
        normal((3, 2), [generator(n) for n in range(count)], torch.zeros(1))


def test_draws_without_a_generator_follow_the_global_seed() -> None:
    torch.manual_seed(11)
    first = normal((4,), None, torch.zeros(1))
    torch.manual_seed(11)
    torch.testing.assert_close(normal((4,), None, torch.zeros(1)), first, rtol=0, atol=0)
