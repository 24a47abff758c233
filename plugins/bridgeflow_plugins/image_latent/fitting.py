"""How an image autoencoder is fitted to pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress
from bridgeflow_plugins.image_latent.codecs import pixels_of_levels


class Fitting(Protocol):
    """How long and how fast, as the settings of a codec say it."""

    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def seed(self) -> int: ...


def reconstruction(pixels: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute and mean square error, added."""
    return F.l1_loss(pixels, truth) + F.mse_loss(pixels, truth)


def minimise(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    levels: Tensor,
    settings: Fitting,
    device: torch.device,
    progress: Progress | None = None,
    autocast: bool = False,
) -> float:
    """Trains `model`, frozen before and after, by `loss_of(pixels)` on batches of pictures, uint8 (N, 3, H, W).

    autocast: products and convolutions in bfloat16. Returns the mean loss over the last tenth of the steps. Raises
    BridgeflowError where it became infinite.
    """
    steps, last = settings.steps, max(settings.steps // 10, 1)
    draws = torch.Generator().manual_seed(settings.seed)
    with torch.enable_grad():
        model.requires_grad_(True).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        recent = torch.zeros((), device=device)
        for step in range(steps):
            chosen = torch.randint(len(levels), (settings.batch_size,), generator=draws)
            pixels = pixels_of_levels(levels[chosen]).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = loss_of(pixels)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step >= steps - last:
                recent += loss.detach() / last
            if progress is not None:
                progress(step + 1, steps, "fitting the autoencoder")
    model.requires_grad_(False).eval()
    # The last gradients would take as much memory as the weights.
    model.zero_grad(set_to_none=True)
    figure = float(recent)
    if not math.isfinite(figure):
        raise BridgeflowError("the autoencoder's loss became infinite while fitting: lower codec.learning_rate.")
    return figure
