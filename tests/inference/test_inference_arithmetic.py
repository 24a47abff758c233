"""Sums, differences and interpolations of what flows start from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.inference.arithmetic import PLAIN, Mixture, between, mix, standardise, sums
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Latent
from bridgeflow.nn.encoded import Encoded

Make = Callable[..., Pipeline]
LEARNED = ["deterministic", "noisy", "variational"]


def toys(pipeline: Pipeline, *seeds: int) -> list[Tensor]:
    return [pipeline.assembly.source.read(seed) for seed in seeds]


def starts(pipeline: Pipeline, item: Tensor, **terms: list[Tensor]) -> Tensor:
    """The z0 that a flow starts from; the toy decodes it as it is."""
    return pipeline.trajectory(item, seed=3, **terms)[0][1]


def random_terms(count: int, rows: int = 3, logvar: bool = False) -> list[Encoded]:
    draw = torch.Generator().manual_seed(1)
    z = [torch.randn(rows, 2, 4, 4, generator=draw) * 10 ** (k - 1) for k in range(count)]
    return [Encoded(one, logvar=torch.zeros_like(one) if logvar else None) for one in z]


def test_what_is_added_and_taken_away_leaves_nothing_at_all() -> None:
    a, b, c = random_terms(3)
    mixture = Mixture((1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0))
    assert torch.equal(mix([a, b, c, c, c, b, c], [mixture] * 3).z0, a.z0)
    # In float32 and from left to right the sum does not come back.
    assert not torch.equal(a.z0 + c.z0 - c.z0, a.z0)


def test_a_constant_is_a_source_like_any_other_unless_it_is_taken_away() -> None:
    white, black = (Encoded(torch.full((1, 2, 4, 4), value)) for value in (1.0, -1.0))
    assert torch.equal(mix([white, white], [sums(1, 0)]).z0, white.z0)
    assert torch.equal(mix([white, black], [sums(1, 0)]).z0, torch.zeros(1, 2, 4, 4))
    with pytest.raises(BridgeflowError, match="cancel out"):
        mix([white, white], [sums(0, 1)])


def test_a_plain_mixture_is_the_first_term_itself() -> None:
    (a,) = random_terms(1)
    assert mix([a], [PLAIN] * 3) is a


def test_what_is_attended_to_is_mixed_with_what_the_flow_starts_from() -> None:
    draw = torch.Generator().manual_seed(2)
    real = [[True, True, False], [True, True, False], [True, True, True]]
    terms = [
        Encoded(
            z := torch.randn(2, 3, generator=draw),
            z,
            None,
            torch.randn(2, 3, 4, generator=draw),
            torch.tensor([own] * 2),
        )
        for own in real
    ]
    a, b, c = terms
    swapped = mix([a, b, c], [sums(1, 1)] * 2)
    seen = [term.context * term.context_mask[..., None] for term in terms]
    torch.testing.assert_close(swapped.context, seen[0] + seen[1] - seen[2])
    assert swapped.context_mask.tolist() == [[True] * 3] * 2
    # A term of weight 0 adds no place to attend to, and what is taken away again leaves nothing.
    assert mix([a, c], [between(0.0)] * 2).context_mask.tolist() == a.context_mask.tolist()
    back = mix([a, b, b], [sums(1, 1)] * 2)
    assert torch.equal(back.context, seen[0])
    assert torch.equal(back.z0, a.z0)
    both = mix([a, b], [sums(1, 0)] * 2)
    torch.testing.assert_close(both.context, (seen[0] + seen[1]) / 2)


def test_a_sum_of_a_learned_distribution_has_mean_0_and_std_1_in_every_row() -> None:
    a, b, c = random_terms(3, logvar=True)
    z = mix([a, b, c], [sums(1, 1)] * 3).z0
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.mean((1, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std((1, 2, 3)), torch.ones(3))
    raw = a.z0 + b.z0 - c.z0
    torch.testing.assert_close(z[1], (raw[1] - raw[1].mean()) / raw[1].std())


def test_a_sum_of_other_sources_is_a_weighted_mean() -> None:
    a, b, c = random_terms(3)
    torch.testing.assert_close(mix([a, b], [sums(1, 0)] * 3).z0, (a.z0 + b.z0) / 2)
    torch.testing.assert_close(mix([a, b, c], [sums(1, 1)] * 3).z0, a.z0 + b.z0 - c.z0)
    torch.testing.assert_close(mix([a, b, a], [sums(1, 1)] * 3).z0, b.z0)
    torch.testing.assert_close(mix([a, b, c], [sums(2, 0)] * 3).z0, (a.z0 + b.z0 + c.z0) / 3)
    torch.testing.assert_close(mix([a, b], [sums(0, 1)] * 3).z0, a.z0 - b.z0)


def test_rows_are_standardised_each_by_itself() -> None:
    z = random_terms(1)[0].z0
    torch.testing.assert_close(standardise(z)[1:2], standardise(z[1:2]), atol=0, rtol=0)


def test_interpolation_is_a_straight_line_and_keeps_its_scale() -> None:
    a, b = random_terms(2, logvar=True)
    z = mix([a, b], [between(0.25), between(0.5), between(1.0)]).z0
    torch.testing.assert_close(z[0], 0.75 * a.z0[0] + 0.25 * b.z0[0])
    torch.testing.assert_close(z[1], (a.z0[1] + b.z0[1]) / 2)
    assert torch.equal(z[2], b.z0[2])


def test_terms_that_cancel_out_are_refused() -> None:
    (a,) = random_terms(1)
    with pytest.raises(BridgeflowError, match="cancel out"):
        mix([a, a], [sums(0, 1)] * 3)


@pytest.mark.parametrize("encoder", ["direct", *LEARNED])
def test_a_plus_b_minus_b_is_a(pipeline_of: Make, encoder: str) -> None:
    pipeline = pipeline_of(encoder)
    a, b, c = toys(pipeline, 1, 2, 3)
    alone = pipeline.combine([a], seed=3)[0][0]
    assert torch.equal(pipeline.combine([a], [b], [b.clone()], seed=3)[0][0], alone)
    assert torch.equal(pipeline.combine([a], [b, c], [c.clone(), b.clone()], seed=3)[0][0], alone)
    assert not torch.equal(pipeline.combine([a], [b], [c], seed=3)[0][0], alone)


@pytest.mark.parametrize("encoder", ["direct", *LEARNED])
def test_a_sum_is_that_of_the_states_the_terms_start_from(pipeline_of: Make, encoder: str) -> None:
    pipeline = pipeline_of(encoder)
    a, b, c = toys(pipeline, 1, 2, 3)
    za, zb, zc = (starts(pipeline, item) for item in (a, b, c))
    raw = za + zb - zc
    expected = (raw - raw.mean()) / raw.std() if encoder == "variational" else raw
    torch.testing.assert_close(starts(pipeline, a, plus=[b], minus=[c]), expected, atol=1e-5, rtol=1e-5)


def test_mean_sampling_adds_the_means(pipeline_of: Make) -> None:
    drawn = pipeline_of("variational")
    mean = pipeline_of("variational", "sampling.source=mean")
    a, b = toys(mean, 1, 2)
    assert torch.equal(mean.combine([a], [b], seed=1)[0][0], mean.combine([a], [b], seed=2)[0][0])
    assert not torch.equal(drawn.combine([a], [b], seed=1)[0][0], drawn.combine([a], [b], seed=2)[0][0])


def test_samples_of_a_sum_differ_and_do_not_depend_on_neighbours(pipeline_of: Make) -> None:
    pipeline = pipeline_of("variational")
    a, b, c = toys(pipeline, 1, 2, 3)
    together = pipeline.combine([a, c], [b], samples=2, seed=5)
    assert [len(own) for own in together] == [2, 2]
    assert not torch.equal(together[1][0], together[1][1])
    for one, other in zip(together[1], pipeline.combine([c], [b], samples=2, seed=5)[0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("encoder", ["direct", *LEARNED])
def test_the_ends_of_an_interpolation_are_plain_results_bit_for_bit(pipeline_of: Make, encoder: str) -> None:
    pipeline = pipeline_of(encoder)
    a, b, c = toys(pipeline, 1, 2, 3)
    first, second = pipeline.interpolate([a, c], b, frames=5, seed=4)
    (plain_a,), (plain_b,), (plain_c,) = (pipeline.generate([item], seed=4)[0] for item in (a, b, c))
    assert torch.equal(first[0], plain_a)
    assert torch.equal(first[-1], plain_b)
    assert torch.equal(second[0], plain_c)
    assert torch.equal(second[-1], plain_b)
    gaps = torch.stack([(one - other).norm() for one, other in pairwise(first)])
    assert float(gaps.min()) > 0.05 * float(gaps.max())
    assert len(pipeline.interpolate([a], b, frames=2, seed=4)[0]) == 2


def test_the_middle_of_an_interpolation_is_the_middle(pipeline_of: Make) -> None:
    pipeline = pipeline_of("direct", "null_rate=0", "sampling.guidance.name=none")
    a, b = toys(pipeline, 1, 2)
    middle = pipeline.interpolate([a], b, frames=3)[0][1]
    torch.testing.assert_close(middle, pipeline.generate([(a + b) / 2])[0][0], atol=1e-5, rtol=1e-5)


def test_items_in_pieces_are_added_piece_by_piece(pipeline_of: Make) -> None:
    pipeline = pipeline_of("direct")
    a, b, c, d = toys(pipeline, 1, 2, 3, 4)
    pair = torch.stack([a, b])
    result = pipeline.combine([pair], [torch.stack([c, d])])[0][0]
    torch.testing.assert_close(result[1], pipeline.combine([b], [d])[0][0], atol=1e-5, rtol=1e-5)
    frames = pipeline.interpolate([pair], torch.stack([c, d]), frames=3)[0]
    assert torch.equal(frames[-1], pipeline.generate([torch.stack([c, d])])[0][0])
    with pytest.raises(BridgeflowError, match="cut into pieces and are of different sizes"):
        pipeline.combine([pair], [torch.stack([c, d])[..., :2]])
    with pytest.raises(BridgeflowError, match="computed in 1 to 2 pieces: give inputs of one size"):
        pipeline.combine([pair], [c])
    with pytest.raises(BridgeflowError, match="computed in 1 to 2 pieces"):
        pipeline.interpolate([a], pair)


def test_a_flow_that_starts_from_noise_has_nothing_to_add_to(pipeline_of: Make) -> None:
    pipeline = pipeline_of("noise")
    a, b = toys(pipeline, 1, 2)
    assert pipeline.generate([a])[0][0].shape == (1, 4, 4)
    for call in (lambda: pipeline.combine([a], [b]), lambda: pipeline.interpolate([a], b)):
        with pytest.raises(BridgeflowError, match="starts from noise"):
            call()


def test_an_interpolation_has_two_ends(pipeline_of: Make) -> None:
    pipeline = pipeline_of("direct")
    with pytest.raises(UsageError, match="at least 2 frames, its ends, not 1"):
        pipeline.interpolate(toys(pipeline, 1), toys(pipeline, 2)[0], frames=1)


def test_of_a_sum_the_first_term_alone_has_to_be_like_the_training(pipeline_of: Make) -> None:
    pipeline = pipeline_of("noisy")
    a, b, c = toys(pipeline, 1, 2, 3)

    class AllFar:
        asked = 0

        def is_ood(self, latent: Latent) -> Tensor:
            self.asked += 1
            return torch.ones(len(latent), dtype=torch.bool)

    pipeline.stages.familiarity = far = AllFar()
    pipeline.combine([a], [b], [c])
    assert (far.asked, pipeline.out_of_distribution) == (1, {0})
    # On the way between two, both are inputs.
    pipeline.interpolate([a], b, 3)
    assert far.asked == 1 + 4
