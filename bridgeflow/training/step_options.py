"""Options of a training step that change its memory or its time and none of its numbers' meaning."""

from __future__ import annotations

import torch
from torch import nn

from bridgeflow.bridge import Bridge
from bridgeflow.config.keys import TrainingSettings
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.nn.recompute import recompute_blocks
from bridgeflow.nn.velocity import VelocityNet


def apply_options(bridge: Bridge, settings: TrainingSettings, device: torch.device) -> None:
    """Sets a bridge up for `training.gradient_checkpointing` and `training.compile`; weights keep their names.

    Raises UsageError where the network has no blocks to recompute, BridgeflowError where nothing can be compiled here.
    """
    if settings.gradient_checkpointing:
        recompute_blocks(bridge)
        if not recompute_blocks(bridge.network):
            raise UsageError(
                f"the network {type(bridge.network).__name__} has no blocks that can be computed a second time: leave "
                "training.gradient_checkpointing out."
            )
    if settings.compile:
        compile_network(bridge.network, device)


def compile_network(network: VelocityNet, device: torch.device) -> None:
    """Has the parts of a network compiled when they are first called; those who call it notice nothing.

    Raises BridgeflowError where torch cannot compile for the device on this machine.
    """
    try:
        _Trial().to(device).compiled()(torch.zeros(8, device=device))
    except Exception as error:  # Whatever a tool chain comes up with.
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BridgeflowError(
            f"training.compile=true, but torch.compile does not work on this machine ({told[0] if told else error!r}): "
            "install a C++ compiler such as g++, and triton for a GPU, or leave training.compile out."
        ) from error
    for part in network.compiled_parts():
        part.compile()


class _Trial(nn.Module):
    """The least there is to compile."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: any shape."""
        return torch.sin(x) + 1

    def compiled(self) -> _Trial:
        """Itself, to be compiled at the first call."""
        self.compile()
        return self
