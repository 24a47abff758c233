"""Gradient checkpointing: what a block keeps for its gradient is computed again in the backward pass.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bridgeflow.nn.ops import transformed


class Recomputing(nn.Module):
    """A module whose blocks can be computed a second time in the backward pass, instead of what they hold being kept.

    Its `forward` calls them by `call`.
    """

    recomputes: bool = False

    def call(self, block: nn.Module, *arguments: Any) -> Any:
        """`block(*arguments)`: of what it computes only the arguments are kept, where `recomputes` is set. The block
        draws the same random numbers both times."""
        if self.recomputes and torch.is_grad_enabled() and not transformed():
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)


def recompute_blocks(module: nn.Module, recomputes: bool = True) -> int:
    """Has every `Recomputing` part of a module recompute its blocks, or keep them; how many such parts there are."""
    parts = [part for part in module.modules() if isinstance(part, Recomputing)]
    for part in parts:
        part.recomputes = recomputes
    return len(parts)
