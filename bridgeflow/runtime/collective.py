"""What the processes of a training exchange; with one process, nothing is sent.

Every function is called by all processes, in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gathered(rows: Tensor) -> Tensor:
    """The rows (B, ...) of every process, (world * B, ...) by rank, without gradients."""
    if world() == 1:
        return rows
    # Gloo carries no booleans.
    sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    parts = [torch.empty_like(sent) for _ in range(world())]
    dist.all_gather(parts, sent.contiguous())
    return torch.cat(parts).to(rows.dtype)


class _GatherRows(torch.autograd.Function):
    """`gathered`, whose gradient goes back to the process that the rows came from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return gathered(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        if dist.get_backend() == "nccl":
            own = total.new_empty(ctx.count, *total.shape[1:])
            dist.reduce_scatter_tensor(own, total)
            return own
        total = total.clone()
        dist.all_reduce(total)
        return total[rank() * ctx.count : (rank() + 1) * ctx.count]


class _Sum(torch.autograd.Function):
    """The sum over the processes; each of them depends on every one's share."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        total = share.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def gathered_with_gradient(rows: Tensor) -> Tensor:
    """`gathered` with gradients. They are sums over the processes' losses: where those are averaged over processes,
    as data-parallel training does, every row gets the gradient of the mean loss times the number of processes, and
    the average of the parameters' gradients is that of the mean loss."""
    if world() == 1:
        return rows
    result: Tensor = _GatherRows.apply(rows)
    return result


def summed_with_gradient(share: Tensor) -> Tensor:
    """The sum of a tensor over the processes, with gradients as in `gathered_with_gradient`."""
    if world() == 1:
        return share
    result: Tensor = _Sum.apply(share)
    return result


def mean(values: Tensor) -> Tensor:
    """The mean over the processes, without gradients."""
    if world() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world()


def all_gather_object(facts: Any) -> list[Any]:
    """What each process says, by rank; small, picklable values."""
    if world() == 1:
        return [facts]
    answers: list[Any] = [None] * world()
    dist.all_gather_object(answers, facts)
    return answers
