"""Tokens of every layout, their masks and their places."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import torch

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.patches import Patches, TimeEmbedding, grid_positions, sinusoid, usual_patch

GRIDS = [((3, 8), 1), ((3, 8), 4), ((2, 4, 6), 2), ((1, 6, 6), 3), ((5, 4, 4), 1), ((2, 4, 2, 6), 2)]


@pytest.mark.parametrize(("shape", "patch"), GRIDS)
def test_tokens_hold_the_cells_of_their_patch(shape: tuple[int, ...], patch: int) -> None:
    patches = Patches(LatentSpec(shape, "grid"), patch)
    z = torch.arange(2 * math.prod(shape)).float().reshape(2, *shape)
    tokens = patches.split(z)
    assert tokens.shape == (2, patches.count, patches.width)
    assert patches.grid == tuple(size // patch for size in shape[1:])
    for number, place in enumerate(itertools.product(*(range(size) for size in patches.grid))):
        cells = z[(slice(None), slice(None), *(slice(n * patch, (n + 1) * patch) for n in place))]
        torch.testing.assert_close(tokens[:, number], cells.flatten(1), rtol=0, atol=0)


@pytest.mark.parametrize(("shape", "patch"), GRIDS)
def test_join_undoes_split(shape: tuple[int, ...], patch: int) -> None:
    patches = Patches(LatentSpec(shape, "grid"), patch)
    z = torch.randn(3, *shape)
    torch.testing.assert_close(patches.join(patches.split(z)), z, rtol=0, atol=0)
    tokens = torch.randn(3, patches.count, patches.width)
    torch.testing.assert_close(patches.split(patches.join(tokens)), tokens, rtol=0, atol=0)


def test_a_wider_token_gives_more_channels() -> None:
    patches = Patches(LatentSpec((2, 4, 6), "grid"), 2)
    first, second = torch.randn(2, 3, 2, 4, 6)
    tokens = torch.cat([patches.split(first), patches.split(second)], dim=-1)
    torch.testing.assert_close(patches.join(tokens), torch.cat([first, second], dim=1), rtol=0, atol=0)


def test_a_sequence_has_a_token_a_position() -> None:
    patches = Patches(LatentSpec((5, 7), "sequence"))
    assert (patches.grid, patches.count, patches.width) == ((5,), 5, 7)
    z = torch.randn(2, 5, 7)
    torch.testing.assert_close(patches.split(z), z, rtol=0, atol=0)
    torch.testing.assert_close(patches.join(z), z, rtol=0, atol=0)


def test_a_token_is_real_where_any_of_its_cells_is() -> None:
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 1, 2] = True
    mask[1, 0, 2:, :] = True
    found = Patches(LatentSpec((3, 4, 4), "grid"), 2).mask(mask)
    assert found is not None
    assert found.dtype == torch.bool
    assert found.tolist() == [[False, True, False, False], [False, False, True, True]]


def test_the_mask_of_a_sequence_and_no_mask_stay_as_they_are() -> None:
    patches = Patches(LatentSpec((3, 4), "sequence"))
    mask = torch.tensor([[True, True, False]])
    assert patches.mask(mask) is mask
    assert patches.mask(None) is None
    assert Patches(LatentSpec((3, 4, 4), "grid"), 2).mask(None) is None


def test_a_patch_that_does_not_divide_is_refused_by_its_option() -> None:
    with pytest.raises(UsageError, match=r"^network\.patch=3 does not divide .* divisor of \(4, 6\)"):
        Patches(LatentSpec((2, 4, 6), "grid"), 3)
    with pytest.raises(UsageError, match=r"^source_encoder\.patch=8 does not divide"):
        Patches(LatentSpec((2, 4), "grid"), 8, "source_encoder.patch")


def test_a_patch_of_a_sequence_is_refused_by_its_option() -> None:
    with pytest.raises(
        UsageError, match=r"source_encoder\.target_patch is 2, .* set source_encoder\.target_patch=1\.$"
    ):
        Patches(LatentSpec((4, 6), "sequence"), 2, "source_encoder.target_patch")


@pytest.mark.parametrize("grid", [(64,), (12, 9), (4, 5, 6)])
@pytest.mark.parametrize("width", [16, 30, 192])
def test_every_place_has_a_position_of_its_own(grid: tuple[int, ...], width: int) -> None:
    positions = grid_positions(grid, width)
    assert positions.shape == (math.prod(grid), width)
    distances = torch.cdist(positions.double(), positions.double())
    distances.fill_diagonal_(math.inf)
    assert float(distances.min()) > 0.05


def test_positions_follow_the_order_of_tokens() -> None:
    positions = grid_positions((2, 3), 16)
    torch.testing.assert_close(positions[4], torch.cat([grid_positions((2,), 8)[1], grid_positions((3,), 8)[1]]))


def test_the_sinusoid_by_hand() -> None:
    features = sinusoid(torch.tensor([0.0, 2.0]), 5, max_period=100.0)
    expected = [[1, 1, 0, 0, 0], [math.cos(2), math.cos(0.2), math.sin(2), math.sin(0.2), 0]]
    torch.testing.assert_close(features, torch.tensor(expected))


def test_the_time_embedding_tells_near_times_apart() -> None:
    torch.manual_seed(0)
    embedding = TimeEmbedding(32)
    times = torch.linspace(0, 1, 101)
    vectors = embedding(times).detach()
    assert vectors.shape == (101, 32)
    distances = torch.cdist(vectors, vectors)
    distances.fill_diagonal_(math.inf)
    assert float(distances.min()) > 1e-3


@pytest.mark.parametrize(
    ("shape", "layout", "patch"),
    [
        ((3, 16, 16), "grid", 1),
        ((8, 17, 15), "grid", 1),
        ((3, 32, 32), "grid", 2),
        ((3, 64, 64), "grid", 4),
        ((3, 352, 1216), "grid", 32),
        ((3, 45, 45), "grid", 1),
        ((3, 36, 36), "grid", 4),
        ((1, 1024), "grid", 4),
        ((2, 16, 16, 16), "grid", 4),
        ((4096, 8), "sequence", 1),
    ],
)
def test_where_nothing_says_how_many_cells_make_a_token_a_grid_has_256_at_most(
    shape: tuple[int, ...], layout: Literal["grid", "sequence"], patch: int
) -> None:
    spec = LatentSpec(shape, layout)
    assert usual_patch(spec) == patch
    patches = Patches(spec, None)
    assert patches.patch == patch
    assert patches.count <= 256 or layout == "sequence" or any(size % (2 * patch) for size in shape[1:])
    z = torch.randn(2, *shape)
    assert torch.equal(patches.join(patches.split(z)), z)
