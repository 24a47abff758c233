"""The training loop: load, step, log, sample, save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge, Losses
from bridgeflow.checkpoints.checkpoint import Checkpoint, load_optimizer
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.batches import batches
from bridgeflow.data.encoding import latent
from bridgeflow.data.pairs import Batch
from bridgeflow.data.rows import EncodedRows, Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.flow.coupling import draw_null_rows
from bridgeflow.modality import Latent
from bridgeflow.runtime import collective
from bridgeflow.runtime.console import Progress
from bridgeflow.runtime.randomness import generator, seed_of
from bridgeflow.training import optimizers, sharding
from bridgeflow.training.average import WeightAverage
from bridgeflow.training.initial import restore, start_from
from bridgeflow.training.interruption import Interruption
from bridgeflow.training.metrics import GRADIENT_NORM, mean_losses
from bridgeflow.training.modalities import FirstBatch, freeze
from bridgeflow.training.reporting import Reporter
from bridgeflow.training.results import Results
from bridgeflow.training.saving import Saver
from bridgeflow.training.soundness import Soundness, check_start
from bridgeflow.training.step_options import apply_options
from bridgeflow.training.trackers import Trackers
from bridgeflow.training.validation import Validation


@dataclass
class Outcome:
    """How a run ended.

    signal: names the signal that came while it trained, or is None. interrupted: the same where steps were left.
    """

    step: int
    seconds: float
    checkpoint: Path
    signal: str | None = None
    interrupted: str | None = None
    unreadable: list[str] = field(default_factory=list)


class Trainer:
    """Trains one recipe in one folder."""

    def __init__(
        self,
        assembly: Assembly,
        rows: Rows | Stream,
        folder: Path,
        accelerator: Accelerator,
        console: Progress,
        resume: Checkpoint | None = None,
        on_sample: Any = None,
        initial: Checkpoint | None = None,
        validation: Validation | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.assembly = assembly
        self.recipe: Recipe = assembly.recipe
        self.settings = self.recipe.training
        self.rows = rows
        self.folder = folder
        self.accelerator = accelerator
        self.device = accelerator.device
        self.console = console
        self.step = 0
        self.position = 0
        self.unreadable: list[str] = []
        self._first_batch_checked = False
        self._gradients_checked = False
        self._first_pass_done = False
        self._interruptions: Tensor | None = None
        self.soundness = Soundness(self.recipe, folder, self.device)
        self._build(initial, resume)
        self._prepare(resume)
        self.reporter = Reporter(
            self.recipe, folder, self.results, accelerator, console, on_sample, validation, trackers
        )

    def _build(self, initial: Checkpoint | None, resume: Checkpoint | None) -> None:
        """The bridge and its average, with the weights that the run begins with."""
        self.assembly.to(self.device)
        frozen = freeze(self.assembly)
        if frozen is not None:
            self.console.say(frozen)
        torch.manual_seed(seed_of(self.settings.seed, "weights"))
        self.bridge = self.assembly.build_bridge().to(self.device)
        if initial is not None:
            start_from(self.bridge, initial, self.recipe, self.console)
        self.average = WeightAverage(self.bridge, self.settings.ema) if self.settings.ema else None
        if resume is not None:
            restore(self.bridge, self.average, resume)
            self.step = resume.step
            self.position = int(resume.meta.get("pairs_seen", 0))
        if isinstance(self.rows, EncodedRows) and self.rows.has_starts:
            # The flows begin where they began: what it makes of a source now is not used, and would only drift.
            self.bridge.source_encoder.requires_grad_(False)
        check_start(self.bridge)

    def _prepare(self, resume: Checkpoint | None) -> None:
        """What trains the bridge, and what saves it."""
        apply_options(self.bridge, self.settings, self.device)
        self.model, self.optimizer, self.prepared = sharding.prepare(
            self.bridge,
            lambda bridge: optimizers.build_optimizer(bridge, self.recipe.keys.optimizer),
            self.accelerator,
        )
        sharded = sharding.is_sharded(self.bridge)
        if sharded and self.average is not None:
            sharding.shard_alike(self.average.module, self.bridge)
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in self.bridge.named_parameters()}
        if resume is not None:
            optimizers.restore(self.optimizer, self.names, load_optimizer(resume))
        self.results = Results(self.assembly, self.rows, self.bridge, self.average, sharded)
        self.saver = Saver(
            self.folder,
            self.results,
            lambda: optimizers.tensors_of(self.optimizer, self.names),
            self.soundness,
            self.accelerator,
            self.console,
        )

    # -- the loop ----------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Trains up to the recipe's number of steps or a signal, and saves."""
        started, reporter = time.monotonic(), self.reporter
        with closing(reporter), Interruption() as interruption:
            reporter.begin(self.step)
            self._train(interruption)
            received = self._interrupted(interruption)
            stopped_by = received if self.step < self.settings.steps else None
            saved = self.save()
            if received is not None and stopped_by is None:
                self.console.say(f"{received} came when all steps were done: the run ends as a whole one does.")
            if stopped_by is None:
                reporter.sample(self.step)
            reporter.end()
        unreadable = [sentence for own in collective.all_gather_object(self.unreadable) for sentence in own]
        return Outcome(self.step, time.monotonic() - started, saved, received, stopped_by, unreadable)

    def _train(self, interruption: Interruption) -> None:
        """Steps up to the last or a signal, with what is logged, saved and shown between them."""
        settings = self.settings
        data = self._batches()
        while self.step < settings.steps and self._interrupted(interruption) is None:
            begun = time.monotonic()
            losses, waited = self._train_step(data)
            self.reporter.count(losses, time.monotonic() - begun, waited)
            self.step += 1
            shown = self._due(settings.sample_every)
            if shown or self._due(settings.log_every):
                self.soundness.check()
                self.reporter.report(self.step, self.optimizer.param_groups[0]["lr"], measured=shown)
            # The last checkpoint is written by `run`, and so is the last sample, unless a signal ends the run.
            if self.step < settings.steps:
                if self._due(settings.checkpoint_every):
                    self.save(last=False)
                if shown:
                    self.reporter.sample(self.step)

    def _due(self, every: int) -> bool:
        """Whether something that is done every so many steps, and at the end, is to be done now; 0 leaves the end."""
        return self.step == self.settings.steps or (every > 0 and self.step % every == 0)

    def _interrupted(self, interruption: Interruption) -> str | None:
        """The signal that any process received, so that all of them stop at the same step. Among several it is what was
        reduced a step ago that is read, since reading this step's would wait for the device; all call it as often."""
        if self.accelerator.num_processes == 1:
            return interruption.received
        before = self._interruptions
        self._interruptions = collective.mean(
            torch.tensor(float(interruption.received is not None), device=self.device)
        )
        if before is None or before.item() == 0:
            return None
        return interruption.received or "SIGTERM"

    def _batches(self) -> Iterator[Batch]:
        settings = self.settings
        return batches(
            self.rows,
            self.assembly.task,
            self.recipe.columns,
            settings.batch_size,
            settings.seed,
            position=self.position,
            workers=settings.workers,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def _train_step(self, data: Iterator[Batch]) -> tuple[Losses, float]:
        """One optimiser step; its losses, averaged over the backward passes, and the seconds spent waiting for data."""
        settings = self.settings
        self.model.train()
        share = optimizers.learning_rate_share(self.step, settings.steps, settings.schedule)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * share
        waited = 0.0
        parts: list[Losses] = []
        for part in range(settings.accumulation):
            start = time.monotonic()
            with self._first("reading the first batch"):
                batch = next(data)
            waited += time.monotonic() - start
            parts.append(self._accumulate(batch, part == settings.accumulation - 1))
        norm = optimizers.clip_gradient(self.bridge.parameters(), settings.clip)
        self.soundness.note("gradient", self.step, norm)
        self.prepared.step()
        self.prepared.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.bridge)
        losses = mean_losses(parts)
        return Losses(losses.total, losses.terms | {GRADIENT_NORM: norm}, losses.health), waited

    def _accumulate(self, batch: Batch, last: bool) -> Losses:
        """The losses of a batch, whose gradients are added up; of a step's `last` batch over the processes, too."""
        self._note_unreadable(batch.failures)
        with self._first("encoding the first batch"):
            source = latent(self.assembly.source, batch.source, self.device)
            target = latent(self.assembly.target, batch.target, self.device, self.bridge.needs_target_pixels)
        if not self._first_batch_checked:
            self._first_batch_checked = True
            self._check_first_batch(FirstBatch(self.assembly, batch, source, target))
        sharding.synchronise(self.model, last)
        doing = self._first("compiling the network" if self.settings.compile else "taking the first step")
        with doing, nullcontext() if last else self.accelerator.no_sync(self.model):
            losses = self._backward(source, target)
        self._first_pass_done = True
        return Losses(losses.total.detach(), losses.terms, losses.health)

    def _check_first_batch(self, first: FirstBatch) -> None:
        """Warns of a first batch that no flow is made for: it trains all the same, at a loss that says little."""
        for sentence in first.warnings():
            if self.accelerator.is_main_process:
                self.console.warn(sentence)
        self.reporter.once |= first.figures

    def _first(self, what: str) -> AbstractContextManager[None]:
        """Says what is done where it takes long, until one batch has gone the whole way."""
        return nullcontext() if self._first_pass_done else self.console.doing(what)

    def _backward(self, source: Latent, target: Latent) -> Losses:
        """Losses and gradients of the next rows. The draws of source, target, time and null rows depend on a row's
        place in the endless sequence of pairs alone, whatever the number of processes; dropout goes by step and
        process."""
        settings, accelerator = self.settings, self.accelerator
        batch, rank = settings.batch_size, accelerator.process_index
        whole = batch * accelerator.num_processes
        null = draw_null_rows(whole, self.recipe.keys.null_rate, generator(settings.seed, "null", self.position))
        first = self.position + rank * batch
        rows = [generator(settings.seed, "row", first + row) for row in range(batch)]
        torch.manual_seed(seed_of(settings.seed, "step", self.position, rank))
        self.position += whole
        with accelerator.autocast():
            losses: Losses = self.model(source, target, rows, null, self.step / settings.steps)
        self.soundness.note("loss", self.step, losses.total.detach(), source, target)
        accelerator.backward(losses.total / settings.accumulation)
        self._check_gradients()
        return losses

    def _check_gradients(self) -> None:
        """Raises BridgeflowError where a parameter got no gradient: processes that wait for it would not agree."""
        if self._gradients_checked or self.accelerator.num_processes == 1:
            return
        without = [name for name, own in self.bridge.named_parameters() if own.requires_grad and own.grad is None]
        if without:
            raise BridgeflowError(
                f"no loss reaches {', '.join(without[:3])} ({len(without)} parameters in all), so several processes "
                "cannot train together: call requires_grad_(False) on what the network does not use."
            )
        self._gradients_checked = True

    def _note_unreadable(self, failures: list[str]) -> None:
        for failure in failures:
            if failure not in self.unreadable:
                self.unreadable.append(failure)
                if len(self.unreadable) <= 5:
                    self.console.warn(f"skipped: {failure}")
                elif len(self.unreadable) == 6:
                    self.console.warn("more rows are skipped; their number is given at the end.")

    # -- what is kept ------------------------------------------------------------------------------------

    def result_bridge(self) -> Bridge:
        """The bridge that results are made with, see `Results`. All processes call it together."""
        return self.results.at(self.step)

    def save(self, last: bool = True) -> Path:
        """Writes a checkpoint of the present step, see `Saver`."""
        facts: dict[str, Any] = {
            "average_updates": self.average.updates if self.average else 0,
            "health": self.reporter.health,
            "pairs_seen": self.position,
        }
        measured = self.reporter.val_loss(self.step)
        if measured is not None:
            facts["val_loss"] = measured
        return self.saver.save(self.step, facts, last)
