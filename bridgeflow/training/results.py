"""The bridge that results are made with: the weight average where there is one."""

from __future__ import annotations

import torch

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.data.batches import batches
from bridgeflow.data.encoding import latent
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.modality import Latent
from bridgeflow.training import sharding
from bridgeflow.training.average import WeightAverage, has_batch_statistics, measure_statistics

CALIBRATION_BATCHES = 16
"""Batches from which the average's running statistics are measured."""


class Results:
    """What results are made with at any step of a training."""

    def __init__(
        self, assembly: Assembly, rows: Rows | Stream, bridge: Bridge, average: WeightAverage | None, sharded: bool
    ) -> None:
        self.assembly = assembly
        self.rows = rows
        self.bridge = bridge
        self.average = average
        self.sharded = sharded
        self._calibration: list[Latent] | None = None
        self._measured = -1

    @property
    def device(self) -> torch.device:
        """Where the bridge is."""
        return next(self.bridge.parameters()).device

    def at(self, step: int) -> Bridge:
        """The bridge that results of a step are made with: the weight average, its running statistics measured for it.
        All processes call it together."""
        if self.average is None:
            module = self.whole(self.bridge)
            module.eval()
            return module
        assert isinstance(self.average.module, Bridge)
        module = self.whole(self.average.module)
        # The statistics that were measured stay with the average until its next update; a copy's do not.
        if has_batch_statistics(module) and (self.sharded or self._measured != step):
            measure_statistics(module, self._calibration_sources())
            self._measured = step
        return module

    def whole(self, bridge: Bridge) -> Bridge:
        """The bridge itself, or a copy of all its weights where they are sharded."""
        if not self.sharded:
            return bridge
        copy = self.assembly.build_bridge().to(self.device).eval()
        copy.load_state_dict(sharding.whole_state(bridge.state_dict(), keep=True))
        return copy

    def _calibration_sources(self) -> list[Latent]:
        if self._calibration is None:
            recipe = self.assembly.recipe
            batch, seed = recipe.training.batch_size, recipe.training.seed
            data = batches(self.rows, self.assembly.task, recipe.columns, batch, seed)
            self._calibration = [
                latent(self.assembly.source, next(data).source, self.device) for _ in range(CALIBRATION_BATCHES)
            ]
        return self._calibration
