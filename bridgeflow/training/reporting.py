"""What a run reports between its steps: the figures of steps, the loss on held-out pairs, sample pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from bridgeflow.bridge import Losses
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError
from bridgeflow.nn.health import collapse_warning
from bridgeflow.runtime.console import Progress, duration
from bridgeflow.tracker import TrackedRun
from bridgeflow.training.journal import Journal
from bridgeflow.training.memory import peak_memory
from bridgeflow.training.metrics import Window
from bridgeflow.training.results import Results
from bridgeflow.training.trackers import Trackers
from bridgeflow.training.validation import LOSS, Validation


class Reporter:
    """Tells how a run goes. Every process has one, and all call its methods together; the main one writes."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        results: Results,
        accelerator: Accelerator,
        console: Progress,
        on_sample: Any = None,
        validation: Validation | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        """folder: of the run. on_sample: called as `on_sample(bridge, step)` for a picture, or None."""
        self.recipe = recipe
        self.settings = recipe.training
        self.folder = folder
        self.results = results
        self.accelerator = accelerator
        self.console = console
        self.on_sample = on_sample
        self.validation = validation
        self.trackers = trackers
        self.health: dict[str, float] = {}
        """The source's figures of the last line."""
        self.once: dict[str, float] = {}
        """Figures that go into the next line alone."""
        self._window = Window()
        self._journal: Journal | None = None
        self._val: dict[int, float] = {}
        self._warned = False

    def begin(self, step: int) -> None:
        """Opens what is written, at the step that the run begins or goes on from."""
        self._started, self._start_step = time.monotonic(), step
        if not self.accelerator.is_main_process:
            return
        if self.trackers is not None:
            self.trackers.start(TrackedRun(self.folder, self.folder.name, self.recipe.tree(), step + 1))
        self._journal = Journal(self.folder, step, self.console.warn, self.trackers)

    def count(self, losses: Losses, seconds: float, waited: float) -> None:
        """Counts a step, of which `waited` seconds were spent waiting for data."""
        self._window.add(losses, seconds, waited)

    def report(self, step: int, rate: float, measured: bool) -> None:
        """Writes a line on the steps since the last one. rate: the learning rate. measured: whether the loss on
        held-out pairs belongs to it."""
        training = self.settings
        figures = self._window.figures(training.batch_size * training.accumulation * self.accelerator.num_processes)
        self.health = {name: figures[f"source/{name}"] for name in self._window.health}
        figures["lr"] = rate
        peak = peak_memory(self.accelerator.device)
        if peak is not None:
            figures["memory"] = peak / 1e9
        line = figures | self.once | (self._measure(step) if measured and training.validation else {})
        if self._journal is not None:
            self._journal.write(step, line)
        self.once = {}
        self._window = Window()
        self._warn_of_collapse(step)
        self._show(step, figures)

    def _measure(self, step: int) -> dict[str, float]:
        """The figures of held-out pairs. All processes call it, since gathering the weights takes them all; the main
        one alone has pairs, and gives figures."""
        bridge = self.results.at(step)
        figures: dict[str, float] = {}
        try:
            if self.validation is not None:
                figures = self.validation(bridge)
        except BridgeflowError as error:
            self.validation = None
            self.console.warn(f"{LOSS} is not measured, since held-out pairs cannot be used: {error}")
        self._val = {step: figures[LOSS]} if LOSS in figures else {}
        return figures

    def val_loss(self, step: int) -> float | None:
        """The loss on held-out pairs at a step; None where it was not measured."""
        return self._val.get(step)

    def _warn_of_collapse(self, step: int) -> None:
        if self._warned or step < max(100, 2 * self.settings.schedule.warmup):
            return
        warning = collapse_warning(self.health, self.results.bridge.source_encoder.learned)
        if warning:
            self._warned = True
            self.console.warn(f"step {step}: {warning}")

    def _show(self, step: int, figures: Mapping[str, float]) -> None:
        """A line on how far the run is."""
        left = (time.monotonic() - self._started) / (step - self._start_step) * (self.settings.steps - step)
        self.console.status(
            f"{step:>6,}/{self.settings.steps:,}  loss {figures['train/loss']:.4f}  "
            f"z0 std {figures['source/z0_std']:.2f}  {figures['pairs_per_second']:,.0f} pairs/s  "
            f"data wait {figures['data_wait']:.0%}  {duration(left)} left"
        )

    def sample(self, step: int) -> None:
        """Draws the sample picture of a step."""
        bridge = self.results.at(step)
        if self._journal is None or self.on_sample is None:
            return
        image = self.on_sample(bridge, step)
        if image is not None:
            self._journal.picture(step, "samples", image)
            self.console.say(f"step {step:,}: samples in {self.folder / 'samples' / f'{step:06d}.png'}")

    def end(self) -> None:
        """Draws the curve of the loss, once all is logged."""
        self.console.clear()
        if self._journal is not None:
            self._journal.curve()

    def close(self) -> None:
        """Closes what is written, however the run ends."""
        if self._journal is not None:
            self._journal.close()
