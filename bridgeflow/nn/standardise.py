"""Standardising over the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridgeflow.runtime import collective


class BatchStandardise(nn.BatchNorm1d):
    """Each feature of (B, D) at mean 0 and variance 1 over the batch in training, by running statistics otherwise;
    nothing learned. With several processes the batch is that of all of them."""

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)
        self.across_processes = True
        """False: over this process's rows alone, for what one process does by itself."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        if not (self.training and self.across_processes and collective.world() > 1):
            return super().forward(input)
        rows = input.float()
        count = len(rows) * collective.world()
        mean = collective.summed_with_gradient(rows.sum(0)) / count
        deviation = rows - mean
        variance = collective.summed_with_gradient(deviation.square().sum(0)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        return (deviation * (variance + self.eps).rsqrt()).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
