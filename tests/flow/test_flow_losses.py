"""The terms of the loss against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Normal, kl_divergence

from bridgeflow.flow.losses import (
    contrastive_loss,
    flow_loss,
    kl_loss,
    logit_multiplier,
    masked_mean,
    pooled,
    staged_flow_loss,
)
from bridgeflow.nn.encoding_loss import CrossContrastSettings


def test_the_mean_without_a_mask_is_over_everything_but_the_batch() -> None:
    values = torch.arange(24.0).reshape(2, 3, 2, 2)
    torch.testing.assert_close(masked_mean(values, None), torch.tensor([5.5, 17.5]))


def test_a_mask_of_a_sequence_covers_its_features() -> None:
    values = torch.tensor([[[1.0, 3.0], [100.0, 100.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0], [8.0, 8.0]]])
    mask = torch.tensor([[True, False, True], [True, True, True]])
    torch.testing.assert_close(masked_mean(values, mask), torch.tensor([4.0, 4.0]))


def test_a_mask_of_a_grid_covers_its_channels() -> None:
    values = torch.stack([torch.full((2, 2), 1.0), torch.tensor([[5.0, 0.0], [0.0, 9.0]])])[None]
    mask = torch.tensor([[[[True, False], [False, True]]]])
    torch.testing.assert_close(masked_mean(values, mask), torch.tensor([4.0]))


def test_a_row_with_nothing_real_gives_zero() -> None:
    mask = torch.tensor([[False, False], [True, False]])
    torch.testing.assert_close(masked_mean(torch.full((2, 2, 3), 6.0), mask), torch.tensor([0.0, 6.0]))


def test_the_flow_loss_is_the_squared_error_of_each_row() -> None:
    velocity = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    target = torch.tensor([[0.0, 4.0], [3.0, 1.0]])
    torch.testing.assert_close(flow_loss(velocity, target), torch.tensor([2.5, 5.0]))
    mask = torch.tensor([[True, False], [False, True]])
    torch.testing.assert_close(flow_loss(velocity, target, mask), torch.tensor([1.0, 1.0]))


def test_the_flow_loss_is_taken_in_float32() -> None:
    velocity = torch.full((1, 10_000), 0.01, dtype=torch.bfloat16)
    loss = flow_loss(velocity, torch.zeros(1, 10_000, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(velocity[0, 0]) ** 2, rel=1e-5)


def test_the_standard_kl_is_that_of_two_normals() -> None:
    random = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(3, 2, 4, 4, generator=random), torch.randn(3, 2, 4, 4, generator=random)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).flatten(1)
    torch.testing.assert_close(kl_loss(mu, logvar, "standard", "sum"), expected.sum(1))
    torch.testing.assert_close(kl_loss(mu, logvar, "standard", "mean"), expected.mean(1))


@pytest.mark.parametrize(
    ("mu", "logvar", "expected"),
    [
        (0.0, 0.0, 0.0),
        (10 / 3, 0.0, 0.5),
        (-10 / 3, 0.0, 0.5),
        (20 / 3, 0.0, 32.0),
        (1.0, 0.0, 0.5 * 0.3**6),
        (0.0, math.log(4.0), 0.5 * (4 - 1 - math.log(4.0))),
        (10 / 3, -2.0, 0.5 * (1 + math.exp(-2.0) + 1)),
    ],
)
def test_the_free_mean_form_by_hand(mu: float, logvar: float, expected: float) -> None:
    loss = kl_loss(torch.full((2, 1), mu), torch.full((2, 1), logvar), "free_mean", "sum")
    torch.testing.assert_close(loss, torch.full((2,), expected), rtol=1e-5, atol=1e-6)


def test_the_variance_form_leaves_the_mean_free() -> None:
    random = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(3, 4, generator=random, requires_grad=True), torch.randn(3, 4, generator=random)
    found = kl_loss(mu, logvar, "variance", "sum")
    torch.testing.assert_close(found, kl_loss(torch.zeros(3, 4), logvar, "standard", "sum"))
    assert float(kl_loss(5 + mu, torch.zeros(3, 4), "variance", "mean").sum()) == 0


@pytest.mark.parametrize("form", ["standard", "free_mean", "variance"])
def test_sum_and_mean_differ_by_the_number_of_dimensions(form: str) -> None:
    mu, logvar = torch.randn(4, 3, 5, 7), torch.randn(4, 3, 5, 7)
    torch.testing.assert_close(kl_loss(mu, logvar, form, "sum"), 105 * kl_loss(mu, logvar, form, "mean"))


@pytest.mark.parametrize("batch", [2, 5, 16])
def test_the_contrast_of_rows_that_are_all_alike_is_log_batch(batch: int) -> None:
    row = torch.randn(1, 2, 3)
    loss = contrastive_loss(row.expand(batch, 2, 3), -2 * row.expand(batch, 2, 3), torch.tensor(14.0))
    assert float(loss) == pytest.approx(math.log(batch), abs=1e-5)


def test_the_contrast_of_well_told_rows_is_near_zero() -> None:
    rows = 3 * torch.eye(6).reshape(6, 2, 3)
    assert float(contrastive_loss(rows, 0.5 * rows, torch.tensor(20.0))) < 1e-6
    assert float(contrastive_loss(rows, rows.roll(1, 0), torch.tensor(20.0))) == pytest.approx(20.0, abs=1e-3)


def test_the_contrast_is_symmetric_and_blind_to_length() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 8, generator=random), torch.randn(5, 8, generator=random)
    scale = torch.tensor(3.0)
    loss = contrastive_loss(a, b, scale)
    torch.testing.assert_close(contrastive_loss(b, a, scale), loss)
    torch.testing.assert_close(contrastive_loss(a * torch.tensor([[1.0], [9], [2], [0.1], [5]]), b, scale), loss)


def test_the_contrast_of_two_rows_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    scale = 2.0
    # Cosines [[1, 0.6], [0, 0.8]]: rows ask which b belongs to a, columns which a belongs to b.
    rows = [math.log1p(math.exp(scale * (0.6 - 1))), math.log1p(math.exp(scale * (0 - 0.8)))]
    columns = [math.log1p(math.exp(scale * (0 - 1))), math.log1p(math.exp(scale * (0.6 - 0.8)))]
    expected = 0.5 * (sum(rows) / 2 + sum(columns) / 2)
    assert float(contrastive_loss(a, b, torch.tensor(scale))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("reading", ["exp", "raw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_contrast_is_taken_in_float32_under_autocast(reading: str, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    a = torch.randn(8, 4, 8, generator=random).to(dtype)
    b = (0.3 * a.float() + torch.randn(8, 4, 8, generator=random)).to(dtype)
    scale = math.log(100) if reading == "exp" else 100.0

    def loss_and_gradients(autocast: bool) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in (a, b, torch.tensor([scale]))]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = contrastive_loss(leaves[0], leaves[1], logit_multiplier(leaves[2], reading))  # type: ignore[arg-type]
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    for plain, under in zip(loss_and_gradients(False), loss_and_gradients(True), strict=True):
        assert under.dtype == plain.dtype
        assert float((under - plain).norm()) <= 1e-5 * float(plain.norm())


def test_a_temperature_that_the_contrast_would_not_keep_is_refused() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        CrossContrastSettings(temperature=0.005)


def test_a_coarse_velocity_is_the_sum_of_each_block_over_the_ratio_and_keeps_its_deviation() -> None:
    velocity = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert pooled(velocity, 2)[0, 0].tolist() == [[5.0, 9.0], [21.0, 25.0]]
    noise = torch.randn(4, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    assert pooled(noise, 4).std().item() == pytest.approx(1.0, abs=0.02)
    assert pooled(noise, 1) is noise


def test_the_loss_over_resolutions_is_their_weighted_sum() -> None:
    target = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    coarse, fine = pooled(target, 4) + 2.0, target + torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    assert staged_flow_loss([coarse, fine], target, (0.25, 1.0)).tolist() == pytest.approx([2.0, 10.0], rel=1e-4)
    assert torch.equal(staged_flow_loss([fine], target, (1.0,)), flow_loss(fine, target))


def test_a_coarse_cell_counts_where_its_whole_block_is_real() -> None:
    target = torch.zeros(1, 1, 4, 4)
    coarse = torch.tensor([[[[1.0, 5.0], [7.0, 9.0]]]])
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0, 3] = False
    found = staged_flow_loss([coarse, target], target, (1.0, 1.0), mask)
    assert found.item() == pytest.approx((1 + 49 + 81) / 3)


def test_the_learned_scale_is_read_in_two_ways() -> None:
    scale = torch.tensor(2.6592600, requires_grad=True)
    assert logit_multiplier(scale, "raw") is scale
    assert logit_multiplier(scale, "exp").item() == pytest.approx(1 / 0.07, rel=1e-4)
    high = torch.tensor(9.0, requires_grad=True)
    held = logit_multiplier(high, "exp")
    assert held.item() == pytest.approx(100.0)
    held.backward()
    assert high.grad is not None
    # It can come back.
    assert high.grad.item() == pytest.approx(100.0)
