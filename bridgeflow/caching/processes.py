"""The processes that write a cache together."""

from __future__ import annotations

from datetime import timedelta

import torch

from bridgeflow.runtime import launch


class Processes:
    """This process among those of `accelerate launch`; alone without it."""

    def __init__(self, device: str | None) -> None:
        self.world = launch.world_size()
        on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
        if self.world == 1:
            self.rank = 0
            self.device = torch.device("cpu" if on_cpu else device or "cuda")
            return
        from accelerate import PartialState

        # A process that is done waits for the others, however long their shards or a fitting take.
        with launch.meeting(on_cpu):
            self._state = PartialState(cpu=on_cpu, timeout=timedelta(days=30))
        self.rank, self.device = self._state.process_index, self._state.device

    @property
    def is_main(self) -> bool:
        """Whether this one writes what there is one of."""
        return self.rank == 0

    def wait(self) -> None:
        """Waits until all are here."""
        if self.world > 1:
            self._state.wait_for_everyone()
