"""What a training saves: checkpoints of a step, written by one process and waited for by all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints import best, writing
from bridgeflow.checkpoints.tensor_file import NotFinite
from bridgeflow.runtime import collective
from bridgeflow.runtime.console import Progress
from bridgeflow.training import sharding
from bridgeflow.training.results import Results
from bridgeflow.training.soundness import Soundness


class Saver:
    """Writes the checkpoints of a run and removes the oldest."""

    def __init__(
        self,
        folder: Path,
        results: Results,
        optimizer: Callable[[], Mapping[str, Tensor]],
        soundness: Soundness,
        accelerator: Accelerator,
        console: Progress,
    ) -> None:
        """folder: of the run. optimizer: gives the optimiser's state by name."""
        self.folder = folder / "checkpoints"
        self.results = results
        self.optimizer = optimizer
        self.soundness = soundness
        self.accelerator = accelerator
        self.console = console

    def save(self, step: int, facts: Mapping[str, Any], last: bool) -> Path:
        """Writes the checkpoint of a step. Where it cannot be written, and is not the last, a warning says so and
        training goes on. All processes call it together."""
        self.soundness.check()
        result = self.results.at(step)
        averaged = self.results.average is not None
        model = self.results.whole(self.results.bridge) if averaged else result
        main = self.accelerator.is_main_process
        optimizer = sharding.whole_state(self.optimizer(), keep=main)
        unsound = self._write(step, model, result if averaged else None, optimizer, facts, last) if main else None
        # All processes wait for the one that writes, and end together where it found the weights unsound.
        unsound = collective.all_gather_object(unsound)[0]
        if unsound is not None:
            self.soundness.stop(unsound, step)
        return self.folder / f"{step:06d}"

    def _write(
        self,
        step: int,
        model: Bridge,
        averaged: Bridge | None,
        optimizer: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        last: bool,
    ) -> str | None:
        """Writes it; the name of a tensor that is not finite, for which nothing was written."""
        assembly, rows = self.results.assembly, self.results.rows
        training = assembly.recipe.training
        whole = {
            "steps": training.steps,
            "data": {"description": rows.description, "fingerprint": rows.fingerprint},
            "processes": self.accelerator.num_processes,
            **facts,
        }
        try:
            writing.save_checkpoint(self.folder, step, assembly, model, averaged, optimizer, whole, training.keep)
            self._keep_best(self.folder / f"{step:06d}")
        except writing.NotSaved as error:
            if last:
                raise
            self.console.warn(error.going_on)
        except NotFinite as error:
            return error.tensor
        return None

    def _keep_best(self, path: Path) -> None:
        if not best.is_chosen(self.results.assembly.recipe.training):
            return
        try:
            best.keep_best(path)
        except OSError as error:
            self.console.warn(
                f"the best checkpoint so far, {str(path)!r}, cannot be kept as {best.BEST!r} "
                f"({error.strerror or error}); training goes on."
            )
