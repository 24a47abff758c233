"""Figures of a learned source, and the sentences that tell of its collapse."""

from __future__ import annotations

import pytest
import torch

from bridgeflow.nn.health import collapse_warning, source_health
from bridgeflow.nn.source import Encoded


def test_health_by_hand() -> None:
    mu = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    encoded = Encoded(
        torch.tensor([[1.0, -1.0], [3.0, -3.0], [0.0, 0.0]]), mu, 2 * torch.log(torch.tensor([[0.5, 1.5]]))
    )
    health = source_health(encoded)
    assert float(health["z0_std"]) == pytest.approx(2.0)  # squares sum to 20 over 6 - 1
    assert float(health["sigma"]) == pytest.approx(1.0)
    assert float(health["mu_batch_std"]) == pytest.approx((2 + 3**0.5) / 2)
    assert set(source_health(Encoded(torch.randn(4, 3)))) == {"z0_std"}
    assert set(source_health(Encoded(torch.randn(1, 3), torch.randn(1, 3)))) == {"z0_std"}


def test_collapse_is_told_in_a_sentence() -> None:
    shrunk = collapse_warning({"z0_std": 0.09, "mu_batch_std": 0.05}, learned=True)
    assert shrunk is not None
    assert "z0 std 0.09" in shrunk
    assert "kl.reduction=sum" in shrunk
    constant = collapse_warning({"z0_std": 1.0, "mu_batch_std": 0.012}, learned=True)
    assert constant is not None
    assert "std of mu over the batch 0.012" in constant
    assert "encoding.name=cross" in constant
    assert collapse_warning({"z0_std": 0.9, "sigma": 0.5, "mu_batch_std": 0.8}, learned=True) is None
    assert collapse_warning({"z0_std": 1.0}, learned=True) is None
    assert collapse_warning({"z0_std": 0.09, "mu_batch_std": 0.0}, learned=False) is None
