"""Normalisations against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from bridgeflow.settings import Settings
from bridgeflow_plugins.depth.normalise import (
    AffineNormalisation,
    InverseNormalisation,
    LinearNormalisation,
    LogNormalisation,
    Normalisation,
    NormalisationSettings,
    fill,
    percentile,
)

NEAR, FAR = 0.5, 20.0
RANGED = [LogNormalisation(), InverseNormalisation(), LinearNormalisation()]


class Holder(Settings):
    normalisation: NormalisationSettings = LogNormalisation()


def as_map(*depths: float) -> torch.Tensor:
    return torch.tensor(depths, dtype=torch.float32).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("normalisation", "middle"),
    [
        (LogNormalisation(), math.sqrt(NEAR * FAR)),
        (InverseNormalisation(), 2 / (1 / NEAR + 1 / FAR)),
        (LinearNormalisation(), (NEAR + FAR) / 2),
    ],
)
def test_near_middle_and_far(normalisation: Normalisation, middle: float) -> None:
    values = normalisation.forward(as_map(NEAR, middle, FAR))
    torch.testing.assert_close(values, as_map(-1.0, 0.0, 1.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalisation.inverse(values), as_map(NEAR, middle, FAR), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalisation", RANGED, ids=lambda n: n.name)
def test_inverse_undoes_forward_and_both_clip(normalisation: Normalisation) -> None:
    depth = torch.linspace(NEAR, FAR, 64).view(1, 1, 8, 8)
    values = normalisation.forward(depth)
    assert (values.flatten().diff() > 0).all()
    torch.testing.assert_close(normalisation.inverse(values), depth, rtol=1e-4, atol=1e-5)
    assert normalisation.forward(as_map(0.1, 300.0)).flatten().tolist() == [-1.0, 1.0]
    torch.testing.assert_close(normalisation.inverse(as_map(-3.0, 3.0)), as_map(NEAR, FAR))


def test_equal_ratios_are_equal_steps_of_log() -> None:
    values = LogNormalisation(near=1, far=16).forward(as_map(1, 2, 4, 8, 16))
    torch.testing.assert_close(values, as_map(-1.0, -0.5, 0.0, 0.5, 1.0))


def test_affine_ignores_scale_and_shift() -> None:
    depth = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
    affine = AffineNormalisation()
    torch.testing.assert_close(affine.forward(depth), affine.forward(3 * depth + 5), atol=1e-4, rtol=0)
    assert not affine.metric


def test_affine_percentiles_of_each_map() -> None:
    depth = torch.stack([torch.arange(1.0, 102.0), 10 * torch.arange(1.0, 102.0)]).view(2, 1, 1, 101)
    values = AffineNormalisation().forward(depth)
    # Percentiles 2 and 98 of 1..101 are 3 and 99; (27 - 3) / 96 = 1/4.
    torch.testing.assert_close(values[:, 0, 0, [0, 2, 26, 50, 98, 100]], torch.tensor([[-1, -1, -0.5, 0, 1, 1.0]] * 2))
    torch.testing.assert_close(AffineNormalisation().inverse(values)[1, 0, 0, [2, 26, 98]], torch.tensor([0, 0.25, 1]))


def test_affine_of_one_depth_is_the_middle() -> None:
    assert (AffineNormalisation().forward(torch.full((1, 1, 4, 4), 3.0)) == 0).all()


@pytest.mark.parametrize("normalisation", [*RANGED, AffineNormalisation()], ids=lambda n: n.name)
def test_finite_whatever_is_missing(normalisation: Normalisation) -> None:
    depth = torch.rand(3, 1, 7, 5, generator=torch.Generator().manual_seed(0)) * 10 + 1
    depth[0] = math.nan
    depth[1, 0, 2:4] = math.nan
    depth[1, 0, 5, 0], depth[1, 0, 5, 1], depth[1, 0, 5, 2] = 0.0, -1.0, math.inf
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[2, 0, :3] = False
    values = normalisation.forward(depth, valid)
    assert values.isfinite().all()
    assert values.abs().max() <= 1
    assert (values[0] == 0).all()


@pytest.mark.parametrize("normalisation", [*RANGED, AffineNormalisation()], ids=lambda n: n.name)
def test_invalid_pixels_do_not_sway_the_valid_ones(normalisation: Normalisation) -> None:
    depth = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 10 + 1
    valid = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.3
    other = torch.where(valid, depth, 5000.0)
    hollow = torch.where(valid, depth, math.nan)
    expected = normalisation.forward(hollow)
    torch.testing.assert_close(normalisation.forward(other, valid), expected)
    torch.testing.assert_close(normalisation.forward(depth, valid), expected)


def test_fill_takes_the_mean_of_the_smallest_cell_that_knows() -> None:
    values = torch.tensor([[1.0, 3.0, 9, 9], [9, 9, 9, 9], [5.0, 9, 9, 9]]).view(1, 1, 3, 4)
    valid = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool().view(1, 1, 3, 4)
    filled = fill(values, valid)[0, 0]
    assert filled[0].tolist() == [1, 3, 3.5, 3.5]  # (mean of 1 and 3, and 5) / 2 for the cells beyond
    assert filled[1].tolist() == [2, 2, 3.5, 3.5]
    assert filled[2].tolist() == [5, 5, 3.5, 3.5]


def test_percentile_is_torchs_quantile_where_that_can_be_asked() -> None:
    values = torch.randn(5, 37, generator=torch.Generator().manual_seed(0))
    values[torch.rand(5, 37, generator=torch.Generator().manual_seed(1)) < 0.4] = math.nan
    for share in (0.0, 0.02, 0.37, 0.98, 1.0):
        torch.testing.assert_close(percentile(values, share), values.nanquantile(share, dim=1))


def test_settings_are_chosen_by_name_and_checked() -> None:
    chosen = Holder.model_validate({"normalisation": {"name": "inverse", "near": 1}}).normalisation
    assert chosen == InverseNormalisation(near=1, far=20)
    assert Holder.model_validate_json(Holder(normalisation=chosen).model_dump_json()).normalisation == chosen
    for wrong in (
        {"name": "log", "near": 5, "far": 5},
        {"name": "log", "near": 0},
        {"name": "linear", "far": math.inf},
        {"name": "affine", "low": 60, "high": 40},
        {"name": "affine", "near": 1},
        {"name": "cubic"},
    ):
        with pytest.raises(ValidationError):
            Holder.model_validate({"normalisation": wrong})
